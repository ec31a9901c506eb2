"""Build the algorithm of a configuration's `algo` section."""

from __future__ import annotations

from typing import Any

from sheeprl.algos import registry
from sheeprl.algos.args import AlgoArgs
from sheeprl.algos.base import Algorithm, Spaces


def build_algorithm(args: AlgoArgs, spaces: Spaces) -> Algorithm[Any]:
    """Return an instance of the algorithm `args.name`.

    Args:
        args: the `algo` section of a configuration.
        spaces: observation and action space of the agent.

    Raises:
        TypeError: the name leads to an object that is not an Algorithm.
    """
    algorithm: type[Algorithm[Any]] = algorithm_class(args)
    return algorithm(args, spaces)


def algorithm_class(args: AlgoArgs) -> type[Algorithm[Any]]:
    """Return the Algorithm at `args.name`; if that is an arguments class, the Algorithm at its path `algorithm`.

    Raises:
        TypeError: the name leads to an object that is not an Algorithm.
    """
    path, found = args.name, registry.load_named(args.name)
    if args.algorithm and isinstance(found, type) and issubclass(found, AlgoArgs):
        path, found = args.algorithm, registry.load_object(args.algorithm)
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise TypeError(f"{path} is not an Algorithm; set algo.name to a subclass of sheeprl.algos.base.Algorithm")
    return found
