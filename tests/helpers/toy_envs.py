"""Tiny environments with known values. Importing this module registers them: `tests.helpers.toy_envs:Recall-v0`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

DECISIONS = 2  # actions in an episode of Recall


class Recall(gymnasium.Env[npt.NDArray[np.float32], np.int64]):
    """Environment with a cue on the first row only; the last action must name it for a reward of 1, else 0.

    The observation is the one-hot cue while it is visible, and the time. Without memory the expected return is 1/2.
    """

    observation_space = spaces.Box(0.0, 1.0, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Begin an episode with a random cue."""
        super().reset(seed=seed)
        self.time, self.cue = 0, int(self.np_random.integers(2))
        return self._obs(), {}

    def step(self, action: np.int64) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Take a step."""
        self.time += 1
        terminated = self.time == DECISIONS
        return self._obs(), float(terminated and action == self.cue), terminated, False, {}

    def _obs(self) -> npt.NDArray[np.float32]:
        """Return the observation."""
        shown = [float(self.time == 0 and self.cue == cue) for cue in range(2)]
        return np.array([*shown, self.time / DECISIONS], np.float32)


gymnasium.register("Recall-v0", Recall)
