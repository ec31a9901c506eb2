"""Uniform spaces for all agents, and the mapping from agent actions to environment actions."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import Space, spaces

Array = npt.NDArray[Any]
MAX_UINT64 = np.nextafter(2.0**64, 0.0)  # greatest float64 that converts to uint64
ACTION_MASK = "action_mask"
"""Observation key with the permitted choices; `models.actions.action_mask` reads it. Never an input of a network."""


@dataclass(frozen=True)
class Spaces:
    """Observation and action space of an agent: one environment's spaces, made uniform by this module.

    `observation` is a Box, Discrete, MultiDiscrete or MultiBinary, or a (nested) Dict of such. `action` is a Discrete
    from 0, a MultiDiscrete from 0, a flat MultiBinary, or a flat Box; a bounded Box is [-1, 1] in every direction,
    whatever the environment's own bounds.

    Args:
        observation: observation space.
        action: action space.
        frame_stack: by flat key, the frames of each observation of which the replay buffer stores the newest only.
        env_action: the environment's own action space; None if it is unknown.
    """

    observation: Space[Any]
    action: Space[Any]
    frame_stack: Mapping[str, int] = field(default_factory=dict)
    env_action: Space[Any] | None = field(default=None, compare=False)

    @property
    def action_kind(self) -> str:
        """Kind of the actions: `discrete`, `multi-discrete`, `multi-binary` or `continuous`."""
        kinds = {
            spaces.Discrete: "discrete",
            spaces.MultiDiscrete: "multi-discrete",
            spaces.MultiBinary: "multi-binary",
        }
        return kinds.get(type(self.action), "continuous")


def observation_space(space: Space[Any]) -> Space[Any]:
    """Return the space as stored: float64 becomes float32, the networks' dtype, at half the size; keys become text.

    Raises:
        ValueError: two keys have the same text, such as 0 and "0".
    """
    if isinstance(space, spaces.Dict):
        if len({str(name) for name in space}) < len(space):
            raise ValueError(
                f"two observation keys have the same text ({', '.join(map(repr, space))}); rename them in a wrapper"
            )
        return spaces.Dict({str(name): observation_space(part) for name, part in space.items()})
    if isinstance(space, spaces.Box) and space.dtype == np.float64:
        return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)
    return space


def without_bounds(space: Space[Any]) -> Space[Any]:
    """Return a space with the same shapes and dtypes whose Boxes have the widest bounds; agents don't use these."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({name: without_bounds(part) for name, part in space.items()})
    if type(space) is spaces.Box and space.dtype.kind in "fiu":
        limits = np.iinfo(space.dtype) if space.dtype.kind in "iu" else None
        low, high = (-np.inf, np.inf) if limits is None else (limits.min, limits.max)
        return spaces.Box(low, high, space.shape, space.dtype.type)
    return space


def action_space(space: Space[Any]) -> Space[Any]:
    """Return the space as agents see it: discrete from 0, all others flat, bounded boxes in [-1, 1]."""
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(space.nvec.reshape(-1))
    if isinstance(space, spaces.MultiBinary):
        return spaces.MultiBinary(math.prod(space.shape))
    if isinstance(space, spaces.Box):
        bound = 1.0 if space.is_bounded() else np.inf
        return spaces.Box(-bound, bound, (int(np.prod(space.shape)),), np.float32)
    return space


def action_choices(space: Space[Any]) -> list[int]:
    """Return the number of choices of each component of an action; empty for a Box.

    Their sum is the length of an action mask. A component of a MultiBinary has two choices, 0 and 1.
    """
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(count) for count in space.nvec.reshape(-1)]
    return [2] * math.prod(space.shape) if isinstance(space, spaces.MultiBinary) else []


def vector_size(space: Space[Any]) -> int:
    """Return the length of the vector that `models.encoder.to_vector` makes of an observation.

    Raises:
        TypeError: a kind of space that has no vector form.
    """
    if isinstance(space, spaces.Dict):
        return sum(vector_size(part) for name, part in space.items() if name != ACTION_MASK)
    if isinstance(space, spaces.Box):
        return int(np.prod(space.shape))
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    if isinstance(space, spaces.MultiBinary):
        return int(np.prod(space.shape))
    raise TypeError(f"an observation space of {type(space).__name__} has no vector form")


def pixel_keys(space: Space[Any]) -> list[str]:
    """Return the flat keys of pictures: Boxes with three or more axes, and Boxes of bytes with two."""
    return [key for key, leaf in flat_spaces(space).items() if is_picture(leaf) and not _is_mask(key)]


def _is_mask(key: str) -> bool:
    """Return True for the flat key of an action mask."""
    return key.rpartition("/")[2] == ACTION_MASK


def input_spaces(space: Space[Any]) -> dict[str, Space[Any]]:
    """Return the parts of an observation that networks may read, by key, without an action mask.

    A key is that of the Dict, such as `state`; a slash joins the levels of a nested Dict. The only part of an
    observation without keys has the key `obs`.
    """
    parts = flat_spaces(space)
    return {key.removeprefix("obs/"): part for key, part in parts.items() if not _is_mask(key)}


def input_keys(
    space: Space[Any], mlp_keys: Collection[str] | None = None, cnn_keys: Collection[str] | None = None
) -> tuple[list[str], list[str]]:
    """Return the keys of vectors and of pictures that an encoder reads, in the order of the space.

    Args:
        space: observation space.
        mlp_keys: permitted keys of vectors; None for all of them.
        cnn_keys: permitted keys of pictures; None for all of them.
    """
    parts = input_spaces(space)
    vectors = [key for key, part in parts.items() if not is_picture(part) and (mlp_keys is None or key in mlp_keys)]
    pictures = [key for key, part in parts.items() if is_picture(part) and (cnn_keys is None or key in cnn_keys)]
    return vectors, pictures


def is_picture(space: Space[Any]) -> bool:
    """Return True for a Box with three or more axes, and for a Box of bytes with two."""
    return isinstance(space, spaces.Box) and len(space.shape) >= (2 if space.dtype == np.uint8 else 3)


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


def observation_bytes(spaces: Spaces) -> int:
    """Return the bytes of one stored observation."""
    return sum(
        math.prod(leaf.shape or ()) * array_dtype(leaf).itemsize // spaces.frame_stack.get(key, 1)
        for key, leaf in flat_spaces(spaces.observation).items()
    )


def newest_frames(rows: Mapping[str, Array], frame_stack: Mapping[str, int]) -> dict[str, Array]:
    """Return rows `[T, B, *]` with the newest frame of each stacked observation in place of the stack."""
    return {
        key: np.ascontiguousarray(values[:, :, -1]) if key in frame_stack else values for key, values in rows.items()
    }


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
    """Map `[B, *]` actions of an agent to those of the environment, which are in its space and of its dtype.

    Bounded boxes: clipped to [-1, 1], then scaled to the environment's bounds. Others: clipped to the bounds there are.
    Boxes of whole numbers: [-1, 1] is split into one interval of equal length per number; without bounds, rounded.
    Discrete: shifted to its first value. MultiBinary: in its shape.

    Args:
        space: one environment's action space.
    """

    def __init__(self, space: Space[Any]) -> None:
        """Compute the scale of a bounded Box."""
        self.space = space
        self._convert = _conversion(space)

    def __call__(self, action: Array) -> Array:
        """Return the environment's actions `[B, *]` in its dtype; may return the input itself."""
        return self._convert(action)


def _conversion(space: Space[Any]) -> Callable[[Array], Array]:
    """Return the function that maps an agent's actions to those of a space."""
    if isinstance(space, spaces.Box):
        scale = _whole_numbers(space) if space.dtype.kind in "iub" else _real_numbers(space)
        return lambda action: np.asarray(scale(action.reshape(len(action), *space.shape)).astype(space.dtype))
    if isinstance(space, spaces.MultiDiscrete):
        return lambda action: np.asarray(action.reshape(len(action), *space.shape) + space.start, space.dtype)
    if isinstance(space, spaces.MultiBinary):
        return lambda action: action.reshape(len(action), *space.shape).astype(space.dtype, copy=False)
    if isinstance(space, spaces.Discrete) and (space.start or space.dtype != np.int64):
        return lambda action: (action + int(space.start)).astype(space.dtype)
    return lambda action: action


def _real_numbers(space: spaces.Box) -> Callable[[Array], Array]:
    """Return the function that maps actions to the real numbers of a box."""
    if not space.is_bounded():
        return lambda action: np.clip(action, space.low, space.high)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    middle, half = high / 2 + low / 2, high / 2 - low / 2  # the sum of two bounds may overflow

    def scale(action: Array) -> Array:
        """Scale an action of the agent."""
        scaled = (middle + half * np.clip(action, -1.0, 1.0)).astype(space.dtype)
        # Rounding may leave the bounds by one unit in the last place.
        return np.asarray(np.clip(scaled, space.low, space.high))

    return scale


def _whole_numbers(space: spaces.Box) -> Callable[[Array], Array]:
    """Return the function that maps actions to the whole numbers of a box."""
    if not space.is_bounded():
        low, high = (_within(bound) for bound in (space.low, space.high))
        return lambda action: np.clip(np.rint(action.astype(np.float64)), low, high)
    # Modulo 2**64, differences and sums of all integer dtypes are exact.
    first, last = (bound.astype(np.int64).view(np.uint64) for bound in (space.low, space.high))
    span = last - first
    count = span.astype(np.float64) + 1

    def scale(action: Array) -> Array:
        """Scale an action of the agent."""
        part = (np.clip(action.astype(np.float64), -1.0, 1.0) + 1) / 2
        number = np.minimum(np.floor(part * count), MAX_UINT64).astype(np.uint64)
        return np.asarray(first + np.minimum(number, span)).view(np.int64)

    return scale


def _within(bound: Array) -> Array:
    """Return integer bounds as float64, which may round them up; the next lower float64 where it does."""
    rounded = bound.astype(np.float64)
    return np.where(rounded > bound.astype(object), np.nextafter(rounded, -np.inf), rounded)


def row_bytes(spaces: Spaces) -> int:
    """Return the bytes of one row of the replay buffer: observation, action, reward and three flags."""
    action = math.prod(spaces.action.shape or ()) * array_dtype(spaces.action).itemsize
    flags = 3 * np.dtype(np.bool_).itemsize
    return observation_bytes(spaces) + action + np.dtype(np.float32).itemsize + flags
