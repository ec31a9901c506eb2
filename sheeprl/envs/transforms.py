"""Uniform spaces for all agents, and the mapping from agent actions to environment actions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import Space, spaces

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Spaces:
    """Observation and action space of an agent: one environment's spaces, made uniform by this module.

    `observation` is a Box, Discrete, MultiDiscrete or MultiBinary, or a (nested) Dict of such. `action` is a Discrete
    from 0, a MultiDiscrete from 0, or a flat Box; a bounded Box is [-1, 1] in every direction, whatever the
    environment's own bounds.
    """

    observation: Space[Any]
    action: Space[Any]

    @property
    def action_kind(self) -> str:
        """`discrete`, `multi-discrete` or `continuous`."""
        kinds = {spaces.Discrete: "discrete", spaces.MultiDiscrete: "multi-discrete"}
        return kinds.get(type(self.action), "continuous")


def observation_space(space: Space[Any]) -> Space[Any]:
    """Return the space as stored: float64 becomes float32, the networks' dtype, at half the size."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({name: observation_space(part) for name, part in space.items()})
    if isinstance(space, spaces.Box) and space.dtype == np.float64:
        return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)
    return space


def action_space(space: Space[Any]) -> Space[Any]:
    """Return the space as agents see it: discrete from 0, boxes flat, bounded boxes in [-1, 1]."""
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(space.nvec.reshape(-1))
    if isinstance(space, spaces.Box):
        bound = 1.0 if space.is_bounded() else np.inf
        return spaces.Box(-bound, bound, (int(np.prod(space.shape)),), np.float32)
    return space


def vector_size(space: Space[Any]) -> int:
    """Return the length of the vector that `models.encoder.to_vector` makes of an observation.

    Raises:
        TypeError: a kind of space that has no vector form.
    """
    if isinstance(space, spaces.Dict):
        return sum(vector_size(part) for part in space.values())
    if isinstance(space, spaces.Box):
        return int(np.prod(space.shape))
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    if isinstance(space, spaces.MultiBinary):
        return int(np.prod(space.shape))
    raise TypeError(f"an observation space of {type(space).__name__} has no vector form")


def without_vector_form(space: Space[Any], key: str = "") -> Iterator[tuple[str, Space[Any]]]:
    """Yield the parts of an observation space that have no vector form, each after its place, such as `['text']`."""
    if isinstance(space, spaces.Dict):
        for name, part in space.items():
            yield from without_vector_form(part, f"{key}[{name!r}]")
    elif not isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        yield key, space


def array_dtype(space: Space[Any]) -> np.dtype[Any]:
    """Return the dtype in which observations of a (leaf) space are stored."""
    return np.dtype(space.dtype or np.float32)


def observation_bytes(space: Space[Any]) -> int:
    """Return the bytes of one stored observation."""
    return sum(
        math.prod(leaf.shape or ()) * array_dtype(leaf).itemsize
        for leaf in flat_spaces(observation_space(space)).values()
    )


def flat_spaces(space: Space[Any], key: str = "obs") -> dict[str, Space[Any]]:
    """Return leaf spaces by flat key; a slash joins the levels of a nested Dict."""
    if not isinstance(space, spaces.Dict):
        return {key: space}
    leaves: dict[str, Space[Any]] = {}
    for name, part in space.items():
        leaves |= flat_spaces(part, f"{key}/{name}")
    return leaves


def dict_keys(space: Space[Any]) -> list[str]:
    """Return the keys of all Dicts in a space."""
    if not isinstance(space, spaces.Dict):
        return []
    return [key for name, part in space.items() for key in (name, *dict_keys(part))]


def flat_observations(obs: Any, key: str = "obs") -> dict[str, Array]:
    """Return the arrays of a (nested) observation by flat key."""
    if not isinstance(obs, dict):
        return {key: obs}
    leaves: dict[str, Array] = {}
    for name, part in obs.items():
        leaves |= flat_observations(part, f"{key}/{name}")
    return leaves


class ActionTransform:
    """Map `[B, *]` actions of an agent to those of the environment.

    Bounded boxes: clipped to [-1, 1], then scaled to the environment's bounds. Others: clipped to the bounds there are.
    Discrete: shifted to its first value.

    Args:
        space: one environment's action space.
    """

    def __init__(self, space: Space[Any]) -> None:
        self.space = space
        self.is_bounded = isinstance(space, spaces.Box) and space.is_bounded()
        if isinstance(space, spaces.Box) and self.is_bounded:
            low, high = space.low.astype(np.float64), space.high.astype(np.float64)
            self.middle, self.half = (high + low) / 2, (high - low) / 2
            self.low, self.high = space.low, space.high
        self.start = int(space.start) if isinstance(space, spaces.Discrete) else 0

    def __call__(self, action: Array) -> Array:
        """Return the environment's actions `[B, *]` in its dtype; may return the input itself."""
        space = self.space
        if isinstance(space, spaces.Box):
            action = action.reshape(len(action), *space.shape)
            if self.is_bounded:
                scaled = self.middle + self.half * np.clip(action, -1.0, 1.0)
                # Rounding may leave the bounds by one unit in the last place.
                return np.asarray(np.clip(scaled.astype(space.dtype), self.low, self.high))
            return np.asarray(np.clip(action, space.low, space.high).astype(space.dtype))
        if isinstance(space, spaces.MultiDiscrete):
            return np.asarray(action.reshape(len(action), *space.shape) + space.start, space.dtype)
        return action + self.start if self.start else action
