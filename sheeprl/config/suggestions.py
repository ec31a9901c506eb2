"""Error messages for the configuration, with the setting that the user probably means."""

from __future__ import annotations

import contextlib
import difflib
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import ValidationError, create_model
from pydantic.fields import FieldInfo

from sheeprl.algos import registry
from sheeprl.config import peer_names
from sheeprl.config.schema import Config, leaves
from sheeprl.config.yaml_io import Dumper
from sheeprl.envs.config import EnvConfig
from sheeprl.utils.errors import shell_command
from sheeprl.utils.settings import STORABLE_CONTAINERS, Count, Section

LIKE = 0.85
"""Least similarity of a hint. Names of settings share parts such as `num_` and `_coef`: a lower one would be luck."""

LIKE_NAME = 0.65
"""Least similarity of a suggested algorithm or configuration, such as ppo for pp0."""


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is meant: one with the same words, the same beginning, a typo less, or a similar one.

    Return None if the similarity may be luck.
    """
    known = list(known)
    if name in known:
        return name
    words = set(name.split("_"))
    if len(words) > 1 and (same := [other for other in known if words <= set(other.split("_"))]):
        return same[0] if len(same) == 1 else None
    longer = [other for other in known if other.startswith(name)]
    if len(longer) == 1 and len(name) >= max(3, 0.4 * len(longer[0])) and longer[0][len(name)] != "_":
        return longer[0]  # an abbreviation; the first word of several may mean anything
    if typo := mistyped(name, known):
        return typo
    match = difflib.get_close_matches(name, known, 1, LIKE) if len(name) > 3 else []
    return match[0] if match else None


def mistyped(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that differs by one typo, None if there is none."""
    typos = [other for other in known if len(other) > 2 and _is_typo(name, other)]
    match = difflib.get_close_matches(name, typos, 1, 0)
    return match[0] if match else None


def _is_typo(name: str, other: str) -> bool:
    """Return whether a letter is missing, doubled, wrong, or swapped with its neighbour."""
    longest = max(len(name), len(other))
    if name == other or abs(len(name) - len(other)) > 1 or longest < 4:
        return False
    start = next((place for place, (a, b) in enumerate(zip(name, other, strict=False)) if a != b), longest)
    rest, other_rest = name[start:], other[start:]
    wrong = longest > 4 and rest[1:] == other_rest[1:]
    swapped = rest[:2] == other_rest[1::-1] and rest[2:] == other_rest[2:]
    return wrong or swapped or rest[1:] == other_rest or rest == other_rest[1:]


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return `; did you mean …?` with the most similar name, or an empty string."""
    match = closest(name, known)
    return f"; did you mean {prefix}{match}?" if match else ""


def nearest_names(name: str, known: Iterable[str], listing: str) -> str:
    """Return `; did you mean …?` with up to three similar names, and the command that lists all of them.

    Args:
        name: name of an algorithm or a configuration, which needs less similarity than a setting.
        known: the names that exist.
        listing: the command.
    """
    known = list(known)
    match = closest(name, known)
    similar = [match] if match else difflib.get_close_matches(name, known, 3, LIKE_NAME)
    return f"; did you mean {' or '.join(similar)}? (list: {listing})" if similar else f"; list them with {listing}"


BASES = ("base", "_base_", "defaults", "extends", "include", "inherits")
"""Words for the configurations that a file is based on, here and in other libraries."""


def hint(name: str, model: type[Section], shown: Callable[[str], str] = str) -> str:
    """Return what to use instead of an unknown setting, or an empty string.

    Args:
        name: a dotted key, or a name without its section.
        model: the settings of the run.
        shown: converts a key to the form of the message, such as a flag.
    """
    if name in BASES:
        return "; a file names its bases as in base: [ppo, mujoco]"
    known = [key for key, _ in leaves(model)]
    section, _, leaf = name.rpartition(".")
    peer, whole = peer_names.find(name)
    if peer and whole and "." in name:
        return _peer_hint(peer, known, shown)
    owners = _owners(f"algo.{leaf}")
    if section == "algo" and owners:
        return f"; algo.{leaf} is a setting of {_joined(owners)}"
    if namesakes := [key for key in known if key.rpartition(".")[2] == leaf]:
        return f"; did you mean {' or '.join(map(shown, namesakes))}?"
    has_use = peer is not None and any(_here(use, known) for use in peer.uses)
    if not has_use and owners:
        return f"; algo.{leaf} is a setting of {_joined(owners)}"
    if peer:
        return _peer_hint(peer, known, shown)
    siblings = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == section}
    everywhere = {key.rpartition(".")[2]: key for key in reversed(known)}
    grouped = {key.replace(".", "_"): key for key in known}
    for names, likely in ((siblings, closest), (everywhere, closest), (grouped, mistyped)):
        if match := likely(leaf, [name for name in names if name not in model.model_fields]):
            return f"; did you mean {shown(names[match])}?"
    return ""


def _peer_hint(peer: peer_names.Peer, known: Iterable[str], shown: Callable[[str], str]) -> str:
    """Return the settings of this run that correspond to another library's name, and the difference."""
    for use in peer.uses:
        keys = [shown(key) for key in _here(use, known)]
        note = f" ({use.note})" if use.note else ""
        if keys:
            return f"; use {', '.join(keys[:-1])}{' or ' if keys[1:] else ''}{keys[-1]}{note}"
    use = peer.uses[0]
    if use.settings:
        owners = _owners(use.settings[0])
        return f"; corresponds to {' or '.join(use.settings)} of {_joined(owners) or 'other algorithms'}"
    return f"; {use.note}"


def _joined(names: Sequence[str]) -> str:
    """Join names to text: `a, b and c`."""
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), *names[-1:]])


def _here(use: peer_names.Use, known: Iterable[str]) -> list[str]:
    """Return the settings of a use that this run has."""
    return [key for key in use.settings if key.partition("=")[0] in known]


def _owners(key: str) -> list[str]:
    """Return the registered algorithms that have a setting."""
    return [name for name in registry.registered() if key in _algorithm_keys(name)]


@cache
def _algorithm_keys(name: str) -> frozenset[str]:
    """Return the settings of a registered algorithm, none if its package can't be imported."""
    try:
        return frozenset(f"algo.{key}" for key, _ in leaves(registry.args_class(name)))
    except Exception:  # a broken package must not hide the mistakes of a configuration
        return frozenset()


_MESSAGES = {
    "missing": "is missing",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping such as {name: value}, or {} for none",
    "model_type": "must be a section of settings",
}


def describe_error(detail: Mapping[str, Any], model: type[Config]) -> list[str]:
    """Return the lines of an error: one for each unknown setting of a section, else one."""
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] != "extra_forbidden":
        return [_describe_value(key, detail, model)]
    given = detail["input"]
    if given == {} and (section := closest(key, model.model_fields)):
        return [f"{key}: unknown setting; did you mean {section}?"]
    return [f"{unknown}: unknown setting{hint(unknown, model)}" for unknown in _leaves_of(key, given)]


def _leaves_of(key: str, value: Any) -> Iterator[str]:
    """Yield the dotted keys of a tree."""
    if not isinstance(value, Mapping) or not value:
        yield key
        return
    for name, below in value.items():
        yield from _leaves_of(f"{key}.{name}", below)


def _describe_value(key: str, detail: Mapping[str, Any], model: type[Config]) -> str:
    """Return the line of a missing or wrong setting: its value and the allowed values."""
    given, context = detail["input"], detail.get("ctx", {})
    kind = detail["type"]
    whole = ".".join(str(part) for part in detail["loc"][:-1])  # without the name of an alternative
    if allowed := _alternatives(dict(leaves(model)).get(whole)):  # pydantic reports each alternative separately
        return f"{whole}={shown(given)}: must be {allowed}"
    if kind == "unstorable":
        return _unstorable(f"{key}{context['where']}", context["part"])
    if detail["loc"][-1] == "[key]":
        reason = detail["msg"] if kind == "label" else "must be text"
        return f"{'.'.join(str(part) for part in detail['loc'][:-2])}: the key {shown(given)} {reason}"
    if kind == "missing":
        return f"{key}: is missing"
    if kind == "literal_error":
        allowed = context["expected"].replace("'", "")
        hint = nearest(str(given), re.findall(r"[\w-]+", allowed))
        return f"{key}={shown(given)}: must be {allowed}{hint}"
    message = _MESSAGES.get(kind)
    if kind == "model_type" and key == "env":
        return f"env={shown(given)}: must be a section of settings; use env.id={shown(given)}"
    if kind == "model_type" and isinstance(given, str) and (parts := re.match(r"(\w+)(?::| +)(?=\S)(.+)", given)):
        return f"{key}={shown(given)}: must be a section of settings; did you mean {parts[1]}: {parts[2]}?"
    if message is None:
        bounds = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
        field = dict(leaves(model)).get(key)
        none = ", or null for none" if field is not None and type(None) in get_args(field.annotation) else ""
        limit = next(
            (f"must be {words} {context[name]:g}{none}" for name, words in bounds.items() if name in context), None
        )
        message = limit or detail["msg"].removeprefix("Value error, ")
        if kind == "value_error" and isinstance(given, Mapping) and key in model.model_fields:
            return _of_section(key, message, model)
    example = _as_list(given, dict(leaves(model)).get(key)) if kind == "tuple_type" else ""
    return f"{key}={shown(given)}: {message}" + (f"; use {example}" if example else "")


def _as_list(given: Any, field: FieldInfo | None) -> str:
    """Return a list that a setting accepts: of the parts of a value, of the value itself, or its default; "" if none.

    Args:
        given: the value.
        field: the setting; None for one that the model doesn't know.
    """
    if field is None:
        return ""
    default = field.get_default(call_default_factory=True) if not field.is_required() else None
    words = re.findall(r"[^\s,;()]+", given) if isinstance(given, str) else []
    parts = [int(word) if word.isdecimal() else word for word in words]
    fields: dict[str, Any] = {"setting": (field.annotation, field)}
    section = create_model("Section", __base__=Section, **fields)
    for value in (parts, [given], [*default] if default else []):
        with contextlib.suppress(ValidationError):
            if value and (accepted := section.model_validate({"setting": value}).model_dump()["setting"]):
                return shown([*accepted])
    return ""


def _of_section(section: str, message: str, model: type[Config]) -> str:
    """Return the line of settings that don't fit together: `section.name=value: …` if the message begins with one."""
    first = re.match(r"(\w+)=\S+(?= )", message)
    if first and f"{section}.{first[1]}" in dict(leaves(model)):
        return f"{section}.{first[0]}:{message[first.end() :]}"
    return f"{section}: {message}"


def _unstorable(key: str, part: Any) -> str:
    """Return the mistake of a part of a mapping that YAML can't store."""
    kind = f"{type(part).__module__}.{type(part).__qualname__}".removeprefix("builtins.")
    if type(part) in (dict, *STORABLE_CONTAINERS):
        kind += " that contains itself"
    return f"{key}={shown(part)}: a {kind} can't be stored in config.yaml; use numbers, text, lists and mappings"


def _alternatives(field: FieldInfo | None) -> str | None:
    """Return the allowed values of a setting that is true, false, a word or a count; None for other settings."""
    kinds = get_args(field.annotation) if field else ()
    words = [str(word) for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    words += ["a whole number, at least 1" for kind in kinds if kind == Count]
    return f"true, false or {' or '.join(words)}" if bool in kinds and words else None


def shown(value: Any) -> str:
    """Format a value as YAML, on one line; values that YAML can't store as Python shows them."""
    try:
        text = yaml.dump(value, Dumper=Dumper, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()
    except Exception:  # a value of any type, from Python
        text = " ".join(reprlib.repr(value).split())
    return text if len(text) < 80 else f"{text[:77]}..."


def check_command(env: EnvConfig) -> str:
    """Return the command that checks an environment with its settings."""
    settings = {name: getattr(env, name) for name in ("kwargs", "wrappers", "max_episode_steps")}
    texts = {name: shown([*value] if name == "wrappers" else value) for name, value in settings.items() if value}
    words = [f"env.{name}={text}" for name, text in texts.items() if not text.endswith("...")]  # shortened ones
    return shell_command("check-env", env.id, *words)
