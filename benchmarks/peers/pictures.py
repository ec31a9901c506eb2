"""Environment of random pictures that cost nothing to make, for benchmarks: `benchmarks.peers.pictures:Pictures-v0`.

The module is independent of SheepRL, so other libraries' environments can import it.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

EPISODE = 500  # steps
DIFFERENT = 64  # pictures that are drawn once and shown in turn

Picture = npt.NDArray[np.uint8]


class Pictures(gymnasium.Env[Picture, np.int64]):
    """Shows random bytes `[size, size, channels]`; the reward is 1 for one of four actions.

    Args:
        size: height and width.
        channels: number of channels.
    """

    def __init__(self, size: int, channels: int = 4) -> None:
        """Draw the pictures."""
        shape = (size, size, channels)
        self.observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        self.action_space = gymnasium.spaces.Discrete(4)
        self.pictures = np.random.default_rng(0).integers(0, 256, (DIFFERENT, *shape), np.uint8)
        self.steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Picture, dict[str, Any]]:
        """Show the first picture."""
        super().reset(seed=seed)
        self.steps = 0
        return self.pictures[0], {}

    def step(self, action: np.int64) -> tuple[Picture, float, bool, bool, dict[str, Any]]:
        """Show the next picture."""
        self.steps += 1
        return self.pictures[self.steps % DIFFERENT], float(action == 0), False, self.steps == EPISODE, {}


gymnasium.register("Pictures-v0", Pictures)
