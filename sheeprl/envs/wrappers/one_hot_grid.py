"""One-hot observations of MiniGrid, whose own ones hold numbers of kinds, colors and states."""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from sheeprl.utils.errors import short_repr


class OneHotGrid(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Return the grid `[W, H, kinds + colors + states]` as bytes of 0 and 255, and drop the rest of the observation.

    A network that reads bytes scales them to 0 to 1. The numbers of MiniGrid, 0 to 10, would become nearly equal.

    Args:
        env: an environment of MiniGrid or BabyAI with its Dict observations, or with those of `ImgObsWrapper`.

    Raises:
        ValueError: the observation has no picture of three numbers a cell.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        """Compute the space."""
        super().__init__(env)
        constants = importlib.import_module("minigrid.core.constants")
        space: Any = env.observation_space
        self._is_dict = isinstance(space, spaces.Dict)
        grid = space.spaces.get("image") if self._is_dict else space
        if not isinstance(grid, spaces.Box) or len(grid.shape) != 3 or grid.shape[2] != 3:
            raise ValueError(f"needs observations of MiniGrid with an image [W, H, 3], not {short_repr(space)}")
        tables = (constants.OBJECT_TO_IDX, constants.COLOR_TO_IDX, constants.STATE_TO_IDX)
        self.sizes = [max(numbers.values()) + 1 for numbers in tables]
        self._first = np.cumsum([0, *self.sizes[:-1]])
        self.observation_space = spaces.Box(0, 255, (*grid.shape[:2], sum(self.sizes)), np.uint8)

    def observation(self, observation: Any) -> Any:
        """Return the one-hot grid."""
        grid = observation["image"] if self._is_dict else observation
        result = np.zeros(self.observation_space.shape or (), np.uint8)
        np.put_along_axis(result, grid + self._first, 255, axis=2)
        return result
