"""Finds algorithms: by the name they registered under, or by path. Imports no torch."""

from __future__ import annotations

import importlib
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from sheeprl.algos.args import AlgoArgs

GROUP = "sheeprl.algos"


class DuplicateAlgorithmError(Exception):
    """Two installed packages claim one name."""


class UnknownAlgorithmError(LookupError):
    """There is no algorithm of that name; the message says what was tried."""


@cache
def registered() -> dict[str, EntryPoint]:
    """Name → entry point of every installed algorithm.

    Raises:
        DuplicateAlgorithmError: two packages registered the same name for different classes.
    """
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            both = " and ".join(
                f"{p.value} of {p.dist.name if p.dist else 'an unknown package'}" for p in (other, point)
            )
            raise DuplicateAlgorithmError(f"two algorithms are registered as {point.name!r}: {both}; uninstall one")
    return found


def load_object(path: str) -> Any:
    """Import what `package.module:name` points to.

    Raises:
        UnknownAlgorithmError: the path is malformed, or its module or its name doesn't exist.
    """
    module_name, _, attribute = path.partition(":")
    if not attribute:
        raise UnknownAlgorithmError(f"{path!r} is not of the form package.module:Class")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UnknownAlgorithmError(f"{path!r}: {error}") from error
    if attribute not in vars(module):
        raise UnknownAlgorithmError(f"{path!r}: module {module_name} has no {attribute}")
    return vars(module)[attribute]


def load_named(name: str) -> Any:
    """Import what an algorithm's registered name, or its path `package.module:Class`, stands for.

    Raises:
        UnknownAlgorithmError: no such algorithm.
    """
    point = registered().get(name)
    if point is None and ":" not in name:
        raise UnknownAlgorithmError(f"unknown algorithm {name!r}")
    return load_object(point.value if point else name)


def args_class(name: str) -> type[AlgoArgs]:
    """Return the arguments class of the algorithm called `name`: a registered name, or a path to either class.

    Raises:
        UnknownAlgorithmError: no such algorithm.
    """
    found = load_named(name)
    if isinstance(found, type) and issubclass(found, AlgoArgs):
        return found
    from sheeprl.algos.base import Algorithm  # a path straight to an Algorithm has imported torch already

    if isinstance(found, type) and issubclass(found, Algorithm):
        return found.args_class()
    raise UnknownAlgorithmError(f"{name!r} is neither an Algorithm nor its AlgoArgs")
