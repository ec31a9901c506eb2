"""Grayscale and resized pictures, computed with NumPy alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from sheeprl.envs.wrappers.keys import chosen_keys

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in the luma of ITU-R BT.601, which OpenCV and Pillow use, too."""


class _PictureWrapper(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Apply a function to each chosen picture of an observation."""

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        keys: Sequence[str] | None,
        function_of: Callable[[spaces.Box], tuple[spaces.Box, Callable[[Any], Any]]],
    ) -> None:
        """Compute the new space; `function_of` returns the space and the function for one picture's space."""
        super().__init__(env)
        self.keys = chosen_keys(env.observation_space, keys)
        space: Any = env.observation_space
        if not self.keys:
            self.observation_space, self._function = function_of(space)
            return
        changed = {name: function_of(space[name]) for name in self.keys}
        self._functions = {name: function for name, (_, function) in changed.items()}
        parts = {name: changed[name][0] if name in changed else part for name, part in space.items()}
        self.observation_space = spaces.Dict(parts)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self._changed(obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._changed(obs), reward, terminated, truncated, info

    def _changed(self, obs: Any) -> Any:
        """Return the observation with the changed pictures."""
        if not self.keys:
            return self._function(obs)
        return {**obs, **{name: function(obs[name]) for name, function in self._functions.items()}}


class Grayscale(_PictureWrapper):
    """Convert RGB pictures `[H, W, 3]` to their luma, `[H, W]`.

    Args:
        env: an environment with bytes as pictures.
        keep_dim: return `[H, W, 1]`.
        keys: keys of a Dict observation; None for the pictures.

    Raises:
        ValueError: a picture has another shape or dtype.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], keep_dim: bool = False, keys: Sequence[str] | None = None) -> None:
        """Store the shape."""
        self.keep_dim = keep_dim
        super().__init__(env, keys, self._function_of)

    def _function_of(self, space: spaces.Box) -> tuple[spaces.Box, Callable[[Any], Any]]:
        """Return the space and the function for one picture's space."""
        if len(space.shape) != 3 or space.shape[2] != 3 or space.dtype != np.uint8:
            raise ValueError(f"the observation is {space.dtype} of shape {space.shape}, not RGB bytes [H, W, 3]")
        shape = (*space.shape[:2], 1) if self.keep_dim else space.shape[:2]
        return spaces.Box(0, 255, shape, np.uint8), lambda picture: grayscale(picture).reshape(shape)


class Resize(_PictureWrapper):
    """Resize pictures `[H, W]` or `[H, W, C]` by averaging areas.

    Args:
        env: an environment with bytes as pictures.
        size: height and width of the result; one number for both.
        keys: keys of a Dict observation; None for the pictures.

    Raises:
        ValueError: a picture has another number of axes or dtype, or a size is less than 1.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], size: int | Sequence[int] = 84, keys: Sequence[str] | None = None
    ) -> None:
        """Store the size."""
        self.height, self.width = (size, size) if isinstance(size, int) else size
        if min(self.height, self.width) < 1:
            raise ValueError(f"size={size}: must be at least 1")
        super().__init__(env, keys, self._function_of)

    def _function_of(self, space: spaces.Box) -> tuple[spaces.Box, Callable[[Any], Any]]:
        """Return the space and the function for one picture's space."""
        if len(space.shape) not in (2, 3) or space.dtype != np.uint8:
            raise ValueError(f"the observation is {space.dtype} of shape {space.shape}, not bytes [H, W, C]")
        resize = AreaResize(space.shape[:2], (self.height, self.width))
        return spaces.Box(0, 255, (self.height, self.width, *space.shape[2:]), np.uint8), resize


class AreaResize:
    """Resize bytes `[H, W, *]` to another height and width; each new pixel is the mean of the area that it covers.

    It uses no matrix product, whose threads cost more than they save at these sizes.

    Args:
        before: height and width of the pictures.
        after: height and width of the results.
    """

    def __init__(self, before: Sequence[int], after: Sequence[int]) -> None:
        """Compute the weights of rows and columns."""
        self.rows, self.columns = (area_weights(old, new) for old, new in zip(before, after, strict=True))

    def __call__(self, picture: Any) -> Any:
        """Return the resized picture as bytes, rounded to the nearest number."""
        rows = _weighted_sum(picture, *self.rows)
        return _to_bytes(_weighted_sum(rows.swapaxes(0, 1), *self.columns).swapaxes(0, 1))


def area_weights(before: int, after: int) -> tuple[Any, Any]:
    """Return the pixels of which each new pixel of a row is the mean, and their weights, both `[taps, after]`."""
    edges = np.arange(after + 1) * before / after
    first, taps = np.floor(edges[:-1]).astype(np.int64), 1 + int(np.ceil(before / after))
    pixels = first + np.arange(taps)[:, None]
    overlap = np.minimum(edges[1:], pixels + 1.0) - np.maximum(edges[:-1], pixels)
    weights = np.clip(overlap, 0.0, None) * after / before
    return np.minimum(pixels, before - 1), weights.astype(np.float32)


def _weighted_sum(picture: Any, pixels: Any, weights: Any) -> Any:
    """Return the float32 means along the first axis of a picture `[H, W, *]`."""
    weights = weights.reshape(*weights.shape, *(1 for _ in picture.shape[1:]))
    total = picture[pixels[0]] * weights[0]
    for tap in range(1, len(pixels)):
        total += picture[pixels[tap]] * weights[tap]
    return total


def grayscale(picture: Any) -> Any:
    """Return the luma `[H, W]` of RGB bytes `[H, W, 3]`."""
    red, green, blue = (picture[..., channel] * weight for channel, weight in enumerate(LUMA))
    return _to_bytes(red + green + blue)


def _to_bytes(values: Any) -> Any:
    """Return numbers from 0 to 255 as contiguous bytes, rounded to the nearest one."""
    return np.ascontiguousarray(np.rint(values).clip(0, 255).astype(np.uint8))
