"""Error messages for the configuration, with the nearest valid name."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from sheeprl.config.schema import Config, leaves
from sheeprl.config.yaml_io import Dumper
from sheeprl.utils.settings import STORABLE_CONTAINERS, Section


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return `; did you mean …?` with the most similar name, or an empty string."""
    match = difflib.get_close_matches(name, list(known), 1, 0.5)
    return f"; did you mean {prefix}{match[0]}?" if match else ""


def nearest_key(key: str, model: type[Section]) -> str:
    """Return `; did you mean …?` for an unknown dotted key, or an empty string."""
    known = [name for name, _ in leaves(model)]
    group, _, leaf = key.rpartition(".")
    if namesakes := [name for name in known if name.rpartition(".")[2] == leaf]:
        return f"; did you mean {' or '.join(namesakes)}?"
    siblings = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == group}
    elsewhere = {name.rpartition(".")[2]: name for name in reversed(known)}
    for names in (siblings, elsewhere | {name: name for name in model.model_fields}):
        if match := difflib.get_close_matches(leaf, names, 1, 0.6):
            return f"; did you mean {names[match[0]]}?"
    return ""


_MESSAGES = {
    "missing": "is missing",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "dict_type": "must be a group of settings",
    "model_type": "must be a group of settings",
}


def describe_error(detail: Mapping[str, Any], model: type[Config]) -> str:
    """Return one line per mistake: the setting, its value and the allowed values."""
    key = ".".join(str(part) for part in detail["loc"])
    given, context = detail["input"], detail.get("ctx", {})
    kind = detail["type"]
    whole, _, _ = key.rpartition(".")
    if allowed := _alternatives(dict(leaves(model)).get(whole)):  # pydantic reports each alternative separately
        return f"{whole}={shown(given)}: must be {allowed}"
    if kind == "unstorable":
        return _unstorable(f"{key}{context['where']}", context["part"])
    if detail["loc"][-1] == "[key]":
        return f"{'.'.join(str(part) for part in detail['loc'][:-2])}: the key {shown(given)} must be text"
    if kind == "extra_forbidden":
        return f"{key}: unknown setting{nearest_key(key, model)}"
    if kind == "missing":
        return f"{key}: is missing"
    if kind == "literal_error":
        allowed = context["expected"].replace("'", "")
        hint = nearest(str(given), re.findall(r"[\w-]+", allowed))
        return f"{key}={shown(given)}: must be {allowed}{hint}"
    message = _MESSAGES.get(kind)
    if message is None:
        bounds = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
        limit = next((f"must be {words} {context[name]:g}" for name, words in bounds.items() if name in context), None)
        message = limit or detail["msg"].removeprefix("Value error, ")
    return f"{key}={shown(given)}: {message}"


def _unstorable(key: str, part: Any) -> str:
    """Return the mistake of a part of a mapping that YAML can't store."""
    kind = f"{type(part).__module__}.{type(part).__qualname__}".removeprefix("builtins.")
    if type(part) in (dict, *STORABLE_CONTAINERS):
        kind += " that contains itself"
    return f"{key}={shown(part)}: a {kind} can't be stored in config.yaml; use numbers, text, lists and mappings"


def _alternatives(field: FieldInfo | None) -> str | None:
    """Return the allowed values of a setting that is true, false or one of some words; None for other settings."""
    kinds = get_args(field.annotation) if field else ()
    words = [str(word) for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    return f"true, false or {' or '.join(words)}" if bool in kinds and words else None


def shown(value: Any) -> str:
    """Format a value as YAML, on one line; values that YAML can't store as Python shows them."""
    try:
        text = yaml.dump(value, Dumper=Dumper, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()
    except Exception:  # a value of any type, from Python
        text = " ".join(reprlib.repr(value).split())
    return text if len(text) < 80 else f"{text[:77]}..."
