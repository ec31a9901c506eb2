"""Make the callbacks that `run.callbacks` names."""

from __future__ import annotations

import importlib
from typing import Any

from sheeprl.callbacks.base import Callback
from sheeprl.config.schema import Config
from sheeprl.utils.errors import ConfigError, describe

NO_CALLBACK = "is no class derived from sheeprl.Callback"


def load_callbacks(config: Config) -> list[Callback]:
    """Return the callbacks of `run.callbacks`, in order.

    Raises:
        ConfigError: a module can't be imported, or a path isn't a callback, or it refuses its arguments or the run.
    """
    mistakes: list[str] = []
    made = []
    for path, arguments in config.run.callback_calls:
        made.append(callback := _make(path, arguments, mistakes))
        if callback is not None:
            mistakes += (f"run.callbacks: {path}: {text}" for text in callback.mistakes(config))
    if mistakes:
        raise ConfigError(mistakes)
    return [callback for callback in made if callback is not None]


def check_callbacks(callbacks: object) -> None:
    """Check the callbacks that a program passes to `train`.

    Raises:
        ConfigError: they aren't a list or a tuple, or one isn't a callback.
    """
    if not isinstance(callbacks, (list, tuple)):
        found = type(callbacks).__name__
        raise ConfigError([f"callbacks: must be a list of callbacks, not {found}; use callbacks=[{found}(...)]"])
    mistakes = []
    for position, callback in enumerate(callbacks):
        if isinstance(callback, type) and issubclass(callback, Callback):
            name = callback.__name__
            mistakes.append(f"callbacks[{position}]: {name}: is a class, not a callback; use {name}(...)")
        elif not isinstance(callback, Callback):
            kind = callback if isinstance(callback, type) else type(callback)
            mistakes.append(f"callbacks[{position}]: {kind.__name__}: {NO_CALLBACK}")
    if mistakes:
        raise ConfigError(mistakes)


def _make(path: str, arguments: dict[str, Any], mistakes: list[str]) -> Callback | None:
    """Return one callback; append the mistake if there is one."""
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:
        mistakes.append(f"run.callbacks: {path}: {module} can't be imported: {describe(error)}")
        return None
    if not (isinstance(found, type) and issubclass(found, Callback)):
        mistakes.append(f"run.callbacks: {path}: {NO_CALLBACK}")
        return None
    try:
        return found(**arguments)
    except Exception as error:
        mistakes.append(f"run.callbacks: {path}: {name}({arguments}) raised {describe(error)}")
        return None
