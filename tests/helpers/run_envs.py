"""Environments for whole runs, registered on import."""

import os
import random
import time
import uuid

import gymnasium
import numpy as np
import torch


class Walk(gymnasium.Env):
    """Random observations, episodes of 7 to 13 steps; writes a byte per step into a file of its own, if told where.

    Args:
        folder: where to count.
        raises_after: steps after which `step` raises.
        dies_after: steps after which the process ends without a word.
        nan_after: steps after which rewards are not numbers.
        endless: whether episodes don't end.
    """

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)

    def __init__(self, folder=None, raises_after=None, nan_after=None, dies_after=None, endless=False):
        self.endless = endless
        self.path = os.path.join(folder, uuid.uuid4().hex) if folder else None
        self.raises_after, self.nan_after, self.dies_after = raises_after, nan_after, dies_after
        self.steps = 0

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(7, 14))
        return self._obs(), {}

    def step(self, action):
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
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)


gymnasium.register("Walk-v0", Walk)


class Hanging(Walk):
    """Hangs in its step number `after`, once: whoever comes to it first leaves a mark.

    Args:
        mark: file that is made then.
        after: steps of this environment.
    """

    def __init__(self, mark, after=20):
        super().__init__()
        self.mark, self.after = mark, after

    def step(self, action):
        if self.steps == self.after and not os.path.exists(self.mark):
            open(self.mark, "x").close()
            time.sleep(1000)
        return super().step(action)


class Opaque(gymnasium.Env):
    """Goes on by a generator function, which can't be looked into.

    Args:
        hides: whether what it does next hangs on that alone; else the generator says nothing.
    """

    observation_space = gymnasium.spaces.Box(-1000.0, 1000.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, hides=True):
        self.hides, self.count = hides, 0

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        self.hidden = self._numbers()
        return np.zeros(1, np.float32), {}

    def _numbers(self):
        number = 0
        while True:
            yield number
            number += 1

    def step(self, action):
        self.count += 1
        number = next(self.hidden) if self.hides else self.count
        return np.array([number], np.float32), 1.0, self.count == 30, False, {}


class Wide(Walk):
    """Observations of 20 kB."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (5000,), np.float32)

    def _obs(self):
        return np.full(5000, self.left / 14, np.float32)


gymnasium.register("Wide-v0", Wide)


class Worldly(gymnasium.Env):
    """Draws from the generators that all code of a process shares."""

    observation_space = gymnasium.spaces.Box(-10.0, 10.0, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return self._obs(), {}

    def step(self, action):
        return self._obs(), random.random(), random.random() < 0.05, False, {}

    def _obs(self):
        drawn = [random.uniform(-1, 1), np.random.uniform(-1, 1), np.random.randn(), float(torch.rand(()))]
        return np.clip(drawn, -10, 10).astype(np.float32)


gymnasium.register("Worldly-v0", Worldly)
gymnasium.register("Hanging-v0", Hanging)
gymnasium.register("Opaque-v0", Opaque)
