"""Diagnosis of environments whose `reset` or `step` doesn't return what gymnasium requires.

gymnasium's wrappers fail on such an environment with messages like "too many values to unpack".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium

RESET = ("observation", "info")
STEP = ("observation", "reward", "terminated", "truncated", "info")

CAUSED = (TypeError, ValueError, AssertionError, AttributeError, LookupError, gymnasium.error.Error)
"""Errors that a wrong result causes in gymnasium's code."""


class InterfaceError(TypeError):
    """Raised when `reset` or `step` returns something else than gymnasium requires."""


def wrong_result(env: gymnasium.Env[Any, Any], seed: int | None, action: Any = None) -> str:
    """Return what is wrong with the result of `reset` or, with an action, of `step`; "" if nothing is.

    Call the environment itself and then its wrappers, from the inside to the outside. This changes their state.

    Args:
        env: the environment with its wrappers.
        seed: seed of the reset.
        action: action of the step, None to check the reset only.
    """
    layers = [env]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    for layer in reversed(layers):
        calls: list[tuple[str, tuple[str, ...], Callable[[], Any]]] = [
            ("reset", RESET, lambda layer=layer: layer.reset(seed=seed))  # type: ignore[misc]
        ]
        if action is not None:
            calls.append(("step", STEP, lambda layer=layer: layer.step(action)))  # type: ignore[misc]
        for name, required, call in calls:
            try:
                result = call()
            except Exception:  # this isn't about the result
                return ""
            if not isinstance(result, tuple) or len(result) != len(required):
                place = f"{type(layer).__module__}.{type(layer).__qualname__}"
                must = f"{place}.{name} returned {_described(result)}; it must return ({', '.join(required)})"
                return must + (_old_api(name, layer) if _is_old(name, result) else "")
    return ""


def _is_old(name: str, result: Any) -> bool:
    """Return True for the result of an environment that was written for gym before 0.26."""
    if isinstance(result, tuple):
        return name == "step" and len(result) == 4
    return name == "reset" and result is not None


def _old_api(name: str, layer: gymnasium.Env[Any, Any]) -> str:
    """Return what to do with an environment or a wrapper that was written for gym before 0.26."""
    change = "return obs, {}" if name == "reset" else "return obs, reward, terminated, truncated, info"
    if isinstance(layer, gymnasium.Wrapper):
        return f", not as in gym before 0.26: {change}"
    return (
        f", not as in gym before 0.26: {change}; or register "
        f"shimmy.GymV21CompatibilityV0(env={type(layer).__name__}()), "
        'after pip install "shimmy[gym-v21]"'
    )


def check_result(name: str, required: tuple[str, ...], result: Any) -> None:
    """Check the result of a vector environment.

    Raises:
        InterfaceError: it isn't a tuple of the required length.
    """
    if not isinstance(result, tuple) or len(result) != len(required):
        raise InterfaceError(f"{name} returned {_described(result)}; it must return ({', '.join(required)})")


def _described(result: Any) -> str:
    """Return a short description of a result."""
    if isinstance(result, tuple):
        return f"{len(result)} values ({', '.join(type(part).__name__ for part in result)})"
    return f"one value ({type(result).__name__})" if result is not None else "None"
