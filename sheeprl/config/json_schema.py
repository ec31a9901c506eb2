"""JSON schema of configuration files, with which editors complete and check them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sheeprl.algos import registry
from sheeprl.config.bases import BASE
from sheeprl.config.schema import Config

Json = dict[str, Any]

DRAFT = "http://json-schema.org/draft-07/schema#"
DIGITS = r"^[-+]?[0-9][0-9_]*$"
NUMBER = r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?$"
PATH = r"^[\w.]+:\w+$"
SINGLE_OR_LIST = ("run.tags", "log.to")
"""Settings that are a list, and for which a single word is enough."""


def config_schema(algorithms: Sequence[str]) -> Json:
    """Return the schema of configurations of one or several algorithms.

    `algo.name` selects the arguments. Nothing is required, since a base may contain it.

    Args:
        algorithms: names of algorithms.

    Raises:
        UnknownAlgorithmError: an algorithm isn't registered.
    """
    definitions: Json = {}
    sections: Json = {}
    for name, field in Config.model_fields.items():
        if name != "algo" and field.annotation is not None:
            definitions[name] = _adapted(field.annotation.model_json_schema(), name)
            sections[name] = {"$ref": f"#/definitions/{name}"}
    branches = []
    for algorithm in algorithms:
        definitions[f"algo.{algorithm}"] = _adapted(registry.args_class(algorithm).model_json_schema(), "algo")
        chosen = {"properties": {"name": {"const": algorithm}}, "required": ["name"]}
        branches.append({"if": chosen, "then": {"$ref": f"#/definitions/algo.{algorithm}"}})
    names: list[Json] = [{"enum": list(algorithms)}, {"type": "string", "pattern": PATH}]
    described = "algorithm: a registered name, or package.module:Class"
    algo = {
        "type": "object",
        "description": "Arguments of the algorithm.",
        "properties": {"name": {"description": described, "anyOf": names}},
        "allOf": branches,
    }
    base = {
        "description": "what the file is based on: shipped configurations, presets and files; later ones replace "
        "settings of earlier ones",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}],
    }
    return {
        "$schema": DRAFT,
        "title": "SheepRL configuration",
        "type": "object",
        "properties": {BASE: base, "algo": algo, **sections},
        "additionalProperties": False,
        "definitions": definitions,
    }


def _adapted(section: Json, name: str) -> Json:
    """Return the schema of a section for files that people write: nothing is required, and null is an empty section."""
    properties = {key: _adapted_value(value) for key, value in section["properties"].items()}
    for key, value in properties.items():
        if f"{name}.{key}" in SINGLE_OR_LIST:
            described = {part: value.pop(part) for part in ("description", "default") if part in value}
            properties[key] = described | {"anyOf": [value, value["items"]]}
    adapted = {"type": ["object", "null"], "properties": properties, "additionalProperties": False}
    return adapted | ({"description": section["description"].partition("\n")[0]} if "description" in section else {})


def _adapted_value(value: Any) -> Any:
    """Return the schema of a value without what editors don't know.

    Editors read YAML 1.2, in which 100_000 is text, so numbers may be text that looks like one.
    """
    if isinstance(value, list):
        return [_adapted_value(part) for part in value]
    if not isinstance(value, dict):
        return value
    bounds = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
    adapted = {
        bounds.get(key, key): _adapted_value(part)
        for key, part in value.items()
        if key not in ("title", "structural", "needs")
    }
    if adapted.get("type") in ("integer", "number"):
        adapted["pattern"] = DIGITS if adapted["type"] == "integer" else NUMBER
        adapted["type"] = [adapted["type"], "string"]
    return adapted
