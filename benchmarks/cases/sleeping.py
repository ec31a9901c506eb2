"""Environments that sleep, for benchmarks of scaling: `benchmarks.cases.sleeping:Sleeping-v0`.

`SleepingDiscrete-v0` has two discrete actions.
"""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

EPISODE = 1000  # steps

Array = npt.NDArray[np.float32]


class Sleeping(gymnasium.Env[Array, Any]):
    """Environment whose steps take time but almost no CPU.

    Args:
        sleep: seconds per step.
        discrete: True for two discrete actions, False for one continuous one.
    """

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)

    def __init__(self, sleep: float, discrete: bool = False) -> None:
        """Store the time of a step."""
        self.action_space = gymnasium.spaces.Discrete(2) if discrete else gymnasium.spaces.Box(-1.0, 1.0, (1,))
        self.sleep = sleep
        self.steps = 0
        self.obs = np.zeros(3, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Return the constant observation."""
        super().reset(seed=seed)
        self.steps = 0
        return self.obs, {}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Sleep and return the constant observation."""
        time.sleep(self.sleep)
        self.steps += 1
        return self.obs, 1.0, self.steps == EPISODE, False, {}


gymnasium.register("Sleeping-v0", Sleeping)
gymnasium.register("SleepingDiscrete-v0", Sleeping, kwargs={"discrete": True})
