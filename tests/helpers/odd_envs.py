"""Tiny environments that deviate from an ordinary one in one respect each."""

import gymnasium
import numpy as np
from gymnasium import spaces

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)


class Simple(gymnasium.Env):
    """Episodes of 3 steps with reward 1; observations are samples of the space."""

    observation_space = BOX
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return self.observe(), {}

    def step(self, action):
        self.at += 1
        return self.observe(), 1.0, self.at == 3, False, {}

    def observe(self):
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()


class Recorded(Simple):
    """Records its argument, then changes it."""

    received: list[str] = []  # noqa: RUF012 - of all instances

    def __init__(self, value):
        self.received.append(repr(value))
        if isinstance(value, dict):
            value["changed"] = True


class WholeKeys(Simple):
    """Observation keys are whole numbers."""

    observation_space = spaces.Dict({0: spaces.Dict({2: BOX, 10: BOX}), 1: BOX})


class EqualKeys(Simple):
    """Two observation keys have the same text."""

    observation_space = spaces.Dict({0: BOX, "0": BOX})


for _class in (Recorded, WholeKeys, EqualKeys):
    if f"{_class.__name__}-v0" not in gymnasium.registry:
        gymnasium.register(f"{_class.__name__}-v0", f"{__name__}:{_class.__name__}")
