"""Environments for complete runs, registered on import."""

import os
import random
import time
import uuid

import gymnasium
import numpy as np
import torch


class Walk(gymnasium.Env):
    """Environment with random observations and episodes of 7 to 13 steps, which can count its steps in a file.

    Args:
        folder: folder for a file with one byte per step; None for no file.
        raises_after: steps after which `step` raises.
        dies_after: steps after which the process ends silently.
        nan_after: steps after which rewards are NaN.
        endless: True if episodes never end.
    """

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)

    def __init__(self, folder=None, raises_after=None, nan_after=None, dies_after=None, endless=False):
        """Name the file."""
        self.endless = endless
        self.path = os.path.join(folder, uuid.uuid4().hex) if folder else None
        self.raises_after, self.nan_after, self.dies_after = raises_after, nan_after, dies_after
        self.steps = 0

    def reset(self, seed=None, options=None):
        """Begin an episode."""
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(7, 14))
        return self._obs(), {}

    def step(self, action):
        """Take a step."""
        self.steps += 1
        self.left -= 1
        if self.raises_after is not None and self.steps > self.raises_after:
            raise ValueError("out of order")
        if self.dies_after is not None and self.steps > self.dies_after:
            os._exit(3)
        if self.path:
            with open(self.path, "ab") as file:
                file.write(b".")
        reward = float("nan") if self.nan_after is not None and self.steps > self.nan_after else 1.0
        return self._obs(), reward, self.left == 0 and not self.endless, False, {}

    def _obs(self):
        """Return a random observation."""
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)


gymnasium.register("Walk-v0", Walk)


class Hanging(Walk):
    """Environment that hangs once in step `after`; the first one that hangs creates a file.

    Args:
        mark: path of the file.
        after: steps of this environment.
    """

    def __init__(self, mark, after=20):
        """Store the path and the step."""
        super().__init__()
        self.mark, self.after = mark, after

    def step(self, action):
        """Take a step or hang."""
        if self.steps == self.after and not os.path.exists(self.mark):
            open(self.mark, "x").close()
            time.sleep(1000)
        return super().step(action)


class Opaque(gymnasium.Env):
    """Environment with a generator function, whose state can't be captured.

    Args:
        hides: True if observations depend on the generator, False if they don't.
    """

    observation_space = gymnasium.spaces.Box(-1000.0, 1000.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, hides=True):
        """Set the source of observations."""
        self.hides, self.count = hides, 0

    def reset(self, seed=None, options=None):
        """Begin an episode."""
        super().reset(seed=seed)
        self.count = 0
        self.hidden = self._numbers()
        return np.zeros(1, np.float32), {}

    def _numbers(self):
        """Yield the natural numbers."""
        number = 0
        while True:
            yield number
            number += 1

    def step(self, action):
        """Take a step."""
        self.count += 1
        number = next(self.hidden) if self.hides else self.count
        return np.array([number], np.float32), 1.0, self.count == 30, False, {}


class Wide(Walk):
    """Environment with observations of 20 kB."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (5000,), np.float32)

    def _obs(self):
        """Return a large observation."""
        return np.full(5000, self.left / 14, np.float32)


gymnasium.register("Wide-v0", Wide)


class Worldly(gymnasium.Env):
    """Environment that draws from the process-wide generators."""

    observation_space = gymnasium.spaces.Box(-10.0, 10.0, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        """Begin an episode."""
        super().reset(seed=seed)
        return self._obs(), {}

    def step(self, action):
        """Take a step."""
        return self._obs(), random.random(), random.random() < 0.05, False, {}

    def _obs(self):
        """Return an observation drawn from all generators."""
        drawn = [random.uniform(-1, 1), np.random.uniform(-1, 1), np.random.randn(), float(torch.rand(()))]
        return np.clip(drawn, -10, 10).astype(np.float32)


gymnasium.register("Worldly-v0", Worldly)
gymnasium.register("Hanging-v0", Hanging)
gymnasium.register("Opaque-v0", Opaque)
