"""Set attributes of environments while a run goes on, such as the level of a curriculum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sheeprl.utils.errors import describe


class EnvChangeError(Exception):
    """Raised when an attribute of an environment can't be set."""


def set_attributes(env: Any, values: Mapping[str, Any]) -> None:
    """Set attributes of an environment, each on the outermost wrapper that has it.

    Args:
        env: the environment with its wrappers, or a native vector environment.
        values: new values by name.

    Raises:
        EnvChangeError: no layer has such an attribute, or it can't be set.
    """
    for name, value in values.items():
        layer = env
        while not _has(layer, name):
            inner = getattr(layer, "env", None)
            if inner is None:
                where = f"{type(layer).__name__} and its wrappers"
                raise EnvChangeError(
                    f"set_env({name}={value!r}) of a callback: {where} have no attribute {name!r}; correct the name, "
                    "or set it in the environment's __init__"
                )
            layer = inner
        if callable(getattr(layer, name)):
            raise EnvChangeError(f"set_env({name}={value!r}): {name} is a method of {type(layer).__name__}")
        try:
            setattr(layer, name, value)
        except Exception as error:
            where = f"{type(layer).__name__}.{name}"
            raise EnvChangeError(f"set_env({name}={value!r}): {where} can't be set: {describe(error)}") from error


def _has(layer: Any, name: str) -> bool:
    """Return whether one layer has an attribute itself; wrappers may forward those of the layers below."""
    return name in getattr(layer, "__dict__", ()) or hasattr(type(layer), name)
