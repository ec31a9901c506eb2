"""Read and write YAML safely; `1e-3` and `1e6` are numbers."""

from __future__ import annotations

from typing import Any

import yaml

from sheeprl.utils.errors import ConfigError


class Loader(yaml.SafeLoader):
    """`yaml.SafeLoader` that also knows 1e-3 and 1e6 as numbers, leaves dates texts, and refuses a key given twice."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own name, which it copies before adding
        first: [resolver for resolver in resolvers if resolver[0] != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse duplicates, of which YAML would silently keep the last."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class Dumper(yaml.SafeDumper):
    """`yaml.SafeDumper` that quotes the texts which `Loader` would otherwise read as numbers, as `1e5`."""


def parse_yaml(text: str, source: str) -> Any:
    """Parse YAML.

    Raises:
        ConfigError: it isn't YAML; the message holds the line.
    """
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError([f"{where}: not valid YAML: {problem}"]) from error
