"""Probe environments, registered on import: `tests.helpers.probe_envs:Constant-v0` and so on."""

import gymnasium
import numpy as np
from gymnasium.envs.registration import register


class Probe(gymnasium.Env):
    """`steps` steps an episode; subclasses say what is observed and rewarded.

    Args:
        continuous: a Box of one action in [-1, 1], of which only the sign counts, rather than two discrete ones.
    """

    steps = 1
    ends = "terminated"

    def __init__(self, continuous=False):
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = (
            gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32) if continuous else gymnasium.spaces.Discrete(2)
        )
        self.continuous = continuous

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.obs = self.observe()
        return self.obs, {}

    def step(self, action):
        is_up = action[0] > 0 if self.continuous else action == 1
        reward = self.rewarded(float(self.obs[0]), bool(is_up))
        self.t += 1
        self.obs = self.observe()
        over = self.t == self.steps
        return self.obs, reward, over and self.ends == "terminated", over and self.ends == "truncated", {}

    def observe(self):
        return np.zeros(1, np.float32)

    def coin(self):
        return np.full(1, self.np_random.choice([-1.0, 1.0]), np.float32)

    def rewarded(self, obs, is_up):
        return 1.0


class Predict(Probe):
    def observe(self):
        return self.coin()

    def rewarded(self, obs, is_up):
        return obs


class Discount(Probe):
    steps = 2

    def observe(self):
        return np.full(1, min(self.t, 1), np.float32)

    def rewarded(self, obs, is_up):
        return float(self.t == 1)


class Endless(Probe):
    steps = 5
    ends = "truncated"


class Act(Probe):
    def rewarded(self, obs, is_up):
        return 1.0 if is_up else -1.0


class ActOnObs(Probe):
    def observe(self):
        return self.coin()

    def rewarded(self, obs, is_up):
        return 1.0 if is_up == (obs > 0) else -1.0


register("Constant-v0", entry_point=Probe)
for env in (Predict, Discount, Endless, Act, ActOnObs):
    register(f"{env.__name__}-v0", entry_point=env)
