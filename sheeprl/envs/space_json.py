"""Write spaces as JSON and read them back, so that a policy needs no environment."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space, spaces


def to_json(space: Space[Any]) -> dict[str, Any]:
    """Return a space as values that JSON can represent.

    Raises:
        TypeError: a kind of space that agents don't support.
    """
    if isinstance(space, spaces.Dict):
        return {"kind": "dict", "parts": {name: to_json(part) for name, part in space.items()}}
    if isinstance(space, spaces.Box):
        bounds = {name: _bound(getattr(space, name)) for name in ("low", "high")}
        return {"kind": "box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    if isinstance(space, spaces.Discrete):
        return {"kind": "discrete", "n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiDiscrete):
        numbers = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
        return {"kind": "multi_discrete", "dtype": str(space.dtype), **numbers}
    if isinstance(space, spaces.MultiBinary):
        return {"kind": "multi_binary", "n": space.n if isinstance(space.n, int) else list(space.shape)}
    raise TypeError(f"{type(space).__name__} can't be written as JSON")


def from_json(found: dict[str, Any]) -> Space[Any]:
    """Return the space of a result of `to_json`."""
    kind = found["kind"]
    if kind == "dict":
        return spaces.Dict([(name, from_json(part)) for name, part in found["parts"].items()])
    if kind == "multi_binary":
        return spaces.MultiBinary(found["n"])
    dtype: Any = np.dtype(found["dtype"]).type
    if kind == "box":
        low, high = (_array(found[name], found["shape"], dtype) for name in ("low", "high"))
        return spaces.Box(low, high, tuple(found["shape"]), dtype)
    if kind == "discrete":
        space = spaces.Discrete(found["n"], start=found["start"])
        space.dtype = np.dtype(dtype)
        return space
    return spaces.MultiDiscrete(np.array(found["nvec"]), dtype=dtype, start=np.array(found["start"]))


def _bound(bound: Any) -> Any:
    """Return a bound: one number if all are equal, else nested lists; infinite numbers as text."""
    if bound.size and (bound == bound.flat[0]).all():
        return _number(bound.flat[0])
    return _nested(bound.tolist())


def _nested(value: Any) -> Any:
    """Return nested lists with infinite numbers as text."""
    return [_nested(part) for part in value] if isinstance(value, list) else _number(value)


def _number(value: Any) -> Any:
    """Return a number of Python; text for an infinite one, which JSON doesn't have."""
    number = value.item() if hasattr(value, "item") else value
    return str(number) if isinstance(number, float) and number - number != 0 else number


def _array(value: Any, shape: list[int], dtype: Any) -> Any:
    """Return a bound as an array."""
    return np.broadcast_to(np.array(_parsed(value), dtype), shape)


def _parsed(value: Any) -> Any:
    """Return nested lists with numbers for their texts."""
    return [_parsed(part) for part in value] if isinstance(value, list) else float(value) if value in _TEXTS else value


_TEXTS = ("inf", "-inf", "nan")
