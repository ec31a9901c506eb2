"""Find algorithms by registered name or by path, without importing torch."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sheeprl.algos.args import AlgoArgs

GROUP = "sheeprl.algos"


class DuplicateAlgorithmError(Exception):
    """Raised when two installed packages register the same name."""


class UnknownAlgorithmError(LookupError):
    """Raised when a name or path leads to no algorithm."""


@cache
def registered() -> dict[str, EntryPoint]:
    """Return the entry point of every installed algorithm, by its registered name.

    Raises:
        DuplicateAlgorithmError: two packages register the same name for different classes.
    """
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            both = " and ".join(
                f"{p.value} of {p.dist.name if p.dist else 'an unknown package'}" for p in (other, point)
            )
            raise DuplicateAlgorithmError(
                f"two algorithms are registered as {point.name!r}: {both}; uninstall one of these packages"
            )
    return found


def load_object(path: str) -> Any:
    """Import the object at the path `package.module:name`.

    Raises:
        UnknownAlgorithmError: the path is malformed, or the module or the name doesn't exist.
    """
    module_name, _, attribute = path.partition(":")
    if not attribute:
        raise UnknownAlgorithmError(f"{path!r} is not of the form package.module:Class")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        from sheeprl.envs.hints import missing_module  # imports gymnasium

        raise UnknownAlgorithmError(f"{path!r}: {missing_module(error, module_name)}") from error
    if attribute not in vars(module):
        use = " or ".join(f"{module_name}:{name}" for name in _algorithms_in(module))
        advice = f"use {use}" if use else "it defines no Algorithm and no AlgoArgs"
        raise UnknownAlgorithmError(f"{path!r}: module {module_name} has no {attribute}; {advice}")
    return vars(module)[attribute]


def _algorithms_in(module: ModuleType) -> list[str]:
    """Return the names of the algorithms that a module defines, and of their arguments; it has been imported."""
    from sheeprl.algos.args import AlgoArgs
    from sheeprl.algos.base import Algorithm

    found = {name: part for name, part in vars(module).items() if isinstance(part, type)}
    return [
        name
        for name, part in found.items()
        if part.__module__ == module.__name__
        and (issubclass(part, Algorithm) or (issubclass(part, AlgoArgs) and part.algorithm))
    ]


def load_named(name: str) -> Any:
    """Import the class of an algorithm, by its registered name or its path `package.module:Class`.

    Raises:
        UnknownAlgorithmError: the name isn't registered, or the path leads to no object.
    """
    point = registered().get(name)
    if point is None and ":" not in name:
        raise UnknownAlgorithmError(f"unknown algorithm {name!r}")
    return load_object(point.value if point else name)


def args_class(name: str) -> type[AlgoArgs]:
    """Return the arguments class of an algorithm.

    Args:
        name: registered name, or path `package.module:Class` of the algorithm or of its arguments class.

    Raises:
        UnknownAlgorithmError: the name leads to no algorithm.
    """
    from sheeprl.algos.args import AlgoArgs  # slow to import; lists of algorithms don't need it

    found = load_named(name)
    if isinstance(found, type) and issubclass(found, AlgoArgs):
        if found.algorithm and "algorithm" not in vars(found):
            raise UnknownAlgorithmError(
                f"{name!r} inherits algorithm={found.algorithm!r}, which doesn't read its own arguments; name the "
                "Algorithm's class, or set `algorithm` in the class of arguments"
            )
        return found
    from sheeprl.algos.base import Algorithm  # imports torch, as the path to an Algorithm has done already

    if isinstance(found, type) and issubclass(found, Algorithm):
        return found.args_class()
    raise UnknownAlgorithmError(f"{name!r} is neither an Algorithm nor its AlgoArgs")


def summary(name: str) -> str:
    """Return the summary of a registered algorithm.

    It is read from the source of the class, which takes a fraction of the time of an import. Without a literal there,
    the class is imported.

    Raises:
        UnknownAlgorithmError: the name leads to no algorithm.
    """
    point = registered().get(name)
    text = _literal(*point.value.partition(":")[::2], "summary") if point else None
    return args_class(name).summary if text is None else text


def _literal(module: str, class_name: str, attribute: str) -> str | None:
    """Return the text that a class assigns to an attribute in the source of its module; None if there is none."""
    try:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            return None
        with open(spec.origin, encoding="utf-8") as file:
            tree = ast.parse(file.read())
    except (ImportError, OSError, SyntaxError, ValueError):  # the import reports it
        return None
    for part in tree.body:
        if isinstance(part, ast.ClassDef) and part.name == class_name:
            for line in part.body:
                if isinstance(line, ast.AnnAssign) and getattr(line.target, "id", None) == attribute:
                    value = getattr(line.value, "value", None)
                    return value if isinstance(value, str) else None
    return None
