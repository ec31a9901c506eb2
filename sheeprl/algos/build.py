"""From a configuration to its Algorithm."""

from __future__ import annotations

from typing import Any

from sheeprl.algos import registry
from sheeprl.algos.base import Algorithm, Spaces
from sheeprl.config.schema import Config


def build_algorithm(config: Config, spaces: Spaces) -> Algorithm[Any]:
    """The algorithm that `config.algo` names."""
    algorithm: type[Algorithm[Any]] = algorithm_class(config)
    return algorithm(config.algo, spaces)


def algorithm_class(config: Config) -> type[Algorithm[Any]]:
    """The Algorithm's class: the one that the arguments name, or the one that `algo.name` points to."""
    path = config.algo.algorithm or config.algo.name
    found = registry.load_object(path)
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise TypeError(f"{path} is not an Algorithm")
    return found
