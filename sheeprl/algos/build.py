"""Build the algorithm that a configuration's `algo` section names."""

from __future__ import annotations

from typing import Any

from sheeprl.algos import registry
from sheeprl.algos.args import AlgoArgs
from sheeprl.algos.base import Algorithm, Spaces


def build_algorithm(args: AlgoArgs, spaces: Spaces) -> Algorithm[Any]:
    """Return the algorithm that `args` names.

    Args:
        args: the `algo` section of a configuration.
        spaces: observation and action space of the agent.

    Raises:
        TypeError: the name points to something that is not an Algorithm.
    """
    algorithm: type[Algorithm[Any]] = algorithm_class(args)
    return algorithm(args, spaces)


def algorithm_class(args: AlgoArgs) -> type[Algorithm[Any]]:
    """Return the class that `args.algorithm` names, or else the one that `algo.name` points to.

    Raises:
        TypeError: the name points to something that is not an Algorithm.
    """
    path = args.algorithm or args.name
    found = registry.load_object(path)
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise TypeError(f"{path} is not an Algorithm")
    return found
