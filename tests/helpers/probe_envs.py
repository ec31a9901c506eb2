"""Probe environments, registered on import: `tests.helpers.probe_envs:Constant-v0` and so on."""

import gymnasium
import numpy as np
from gymnasium.envs.registration import register


class Probe(gymnasium.Env):
    """Environment with `steps` steps per episode and a constant reward; subclasses change observations and rewards.

    Args:
        continuous: True for one action in [-1, 1], of which only the sign counts; False for two discrete actions.
    """

    steps = 1
    ends = "terminated"

    def __init__(self, continuous=False):
        """Set the spaces."""
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = (
            gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32) if continuous else gymnasium.spaces.Discrete(2)
        )
        self.continuous = continuous

    def reset(self, seed=None, options=None):
        """Begin an episode."""
        super().reset(seed=seed)
        self.t = 0
        self.obs = self.observe()
        return self.obs, {}

    def step(self, action):
        """Take a step."""
        is_up = action[0] > 0 if self.continuous else action == 1
        reward = self.compute_reward(float(self.obs[0]), bool(is_up))
        self.t += 1
        self.obs = self.observe()
        over = self.t == self.steps
        return self.obs, reward, over and self.ends == "terminated", over and self.ends == "truncated", {}

    def observe(self):
        """Return the observation."""
        return np.zeros(1, np.float32)

    def coin(self):
        """Return -1 or 1 at random."""
        return np.full(1, self.np_random.choice([-1.0, 1.0]), np.float32)

    def compute_reward(self, obs, is_up):
        """Return the reward of an action."""
        return 1.0


class Predict(Probe):
    """Probe of the value's dependence on the observation."""

    def observe(self):
        """Return a random observation."""
        return self.coin()

    def compute_reward(self, obs, is_up):
        """Return the observation."""
        return obs


class Discount(Probe):
    """Probe of the discount: the reward comes in the second step."""

    steps = 2

    def observe(self):
        """Return the step."""
        return np.full(1, min(self.t, 1), np.float32)

    def compute_reward(self, obs, is_up):
        """Return 1 in the second step."""
        return float(self.t == 1)


class Endless(Probe):
    """Probe of bootstrapping at truncation."""

    steps = 5
    ends = "truncated"


class Act(Probe):
    """Probe of the policy: one action is compute_reward."""

    def compute_reward(self, obs, is_up):
        """Return 1 for up, else -1."""
        return 1.0 if is_up else -1.0


class ActOnObs(Probe):
    """Probe of the policy's dependence on the observation."""

    def observe(self):
        """Return a random observation."""
        return self.coin()

    def compute_reward(self, obs, is_up):
        """Return 1 if the action matches the observation, else -1."""
        return 1.0 if is_up == (obs > 0) else -1.0


register("Constant-v0", entry_point=Probe)
for env in (Predict, Discount, Endless, Act, ActOnObs):
    register(f"{env.__name__}-v0", entry_point=env)
