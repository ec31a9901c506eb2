"""Read and write YAML safely; `1e-3` and `1e6` are numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from sheeprl.config.yaml_errors import describe_yaml_error
from sheeprl.utils.errors import ConfigError, one_line


class Loader(yaml.SafeLoader):
    """`yaml.SafeLoader` that reads 1e-3 and 1e6 as numbers and dates as text, and rejects duplicate keys."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML copies the dict before it adds to it
        first: [resolver for resolver in resolvers if resolver[0] != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Reject duplicate keys; YAML would silently use the last one."""
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node)
            if key in seen:
                problem = f"the name {key} is already in line {seen[key]}"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen[key] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep=deep)


class Dumper(yaml.SafeDumper):
    """`yaml.SafeDumper` that quotes text that `Loader` would read as a number, such as `1e5`."""


TUPLE = "tag:yaml.org,2002:python/tuple"  # written `!!python/tuple`


def _construct_tuple(loader: Loader, node: yaml.SequenceNode) -> tuple[Any, ...]:
    """Read a tuple."""
    return tuple(loader.construct_sequence(node, deep=True))


def _represent_tuple(dumper: Dumper, value: tuple[Any, ...]) -> yaml.Node:
    """Write a tuple, which YAML itself doesn't have."""
    return dumper.represent_sequence(TUPLE, value)


def _represent_set(dumper: Dumper, value: set[Any]) -> yaml.Node:
    """Write a set in an order that doesn't change from process to process, as that of a set of texts does."""
    ordered = sorted(value, key=lambda member: (type(member).__name__, repr(member)))
    return dumper.represent_mapping("tag:yaml.org,2002:set", [(member, None) for member in ordered])


Loader.add_constructor(TUPLE, _construct_tuple)
Dumper.add_representer(tuple, _represent_tuple)
Dumper.add_representer(set, _represent_set)


def parse_yaml(text: str, source: str) -> Any:
    """Parse YAML.

    Raises:
        ConfigError: the text isn't YAML; the message has the place, the line and the cause.
    """
    return parse_yaml_lines(text, source)[0]


def parse_yaml_lines(text: str, source: str) -> tuple[Any, dict[str, int]]:
    """Parse YAML; return the content, and the line of each dotted key, from 1.

    Raises:
        ConfigError: the text isn't YAML; the message has the place, the line and the cause.
    """
    try:
        loader = Loader(text)
        try:
            node = loader.get_single_node()
            return (None, {}) if node is None else (loader.construct_document(node), dict(_key_lines(node)))
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ConfigError([describe_yaml_error(error, text, source)]) from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:  # a tag that doesn't fit its value
        raise ConfigError([f"{source}: not valid YAML: {one_line(error)}"]) from error


def parse_value(text: str, source: str) -> Any:
    """Parse the value of a setting `key=value`: YAML, or a text that begins with @, such as `@last`.

    Raises:
        ConfigError: the text isn't YAML.
    """
    return text if text.startswith("@") else parse_yaml(text, source)


def _key_lines(node: yaml.Node, prefix: str = "", levels: int = 4) -> Iterator[tuple[str, int]]:
    """Yield the dotted key and the line of each name in the upper levels of a mapping."""
    if not levels or not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            yield f"{prefix}{key.value}", key.start_mark.line + 1
            yield from _key_lines(value, f"{prefix}{key.value}.", levels - 1)
