"""Tiny environments with known values. Importing this module registers them: `tests.helpers.toy_envs:Recall-v0`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

DECISIONS = 2  # default of the actions in an episode of Recall


class Recall(gymnasium.Env[npt.NDArray[np.float32], Any]):
    """Environment with a cue on the first row only; the last action must name it for a reward of 1, else 0.

    The observation is the one-hot cue while it is visible, and the time. Without memory the expected return is 1/2.

    Args:
        decisions: actions in an episode; the cue is visible for the first one.
        continuous: True for one action in [-1, 1], of which only the sign counts; False for two discrete actions.
    """

    observation_space = spaces.Box(0.0, 1.0, (3,), np.float32)

    def __init__(self, decisions: int = DECISIONS, continuous: bool = False) -> None:
        """Set the action space."""
        self.decisions, self.continuous = decisions, continuous
        self.action_space: gymnasium.Space[Any] = (
            spaces.Box(-1.0, 1.0, (1,), np.float32) if continuous else spaces.Discrete(2)
        )

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Begin an episode with a random cue."""
        super().reset(seed=seed)
        self.time, self.cue = 0, int(self.np_random.integers(2))
        return self._obs(), {}

    def step(self, action: Any) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Take a step."""
        self.time += 1
        terminated = self.time == self.decisions
        named = int(action[0] > 0) if self.continuous else action
        return self._obs(), float(terminated and named == self.cue), terminated, False, {}

    def _obs(self) -> npt.NDArray[np.float32]:
        """Return the observation."""
        shown = [float(self.time == 0 and self.cue == cue) for cue in range(2)]
        return np.array([*shown, self.time / self.decisions], np.float32)


gymnasium.register("Recall-v0", Recall)


class Leveled(gymnasium.Env):
    """Episodes that end sooner and pay more at a higher level, which is read at each reset.

    Args:
        level: level of the first episode.
    """

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, level=0):
        """Store the level."""
        self.level = level

    def reset(self, seed=None, options=None):
        """Begin an episode."""
        super().reset(seed=seed)
        self.left, self.pay = max(2, 12 - 2 * self.level), 1.0 + self.level
        return self._obs(), {}

    def step(self, action):
        """Pay for action 1."""
        self.left -= 1
        return self._obs(), self.pay * float(action), self.left == 0, False, {}

    def _obs(self):
        """Return a random observation."""
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)


gymnasium.register("Leveled-v0", Leveled)
