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


class PictureProbe(gymnasium.Env):
    """Base class of probes with pictures `[size, size, 3]` of bytes and three choices.

    Args:
        continuous: True for one action in [-1, 1], whose thirds are the choices; False for three discrete actions.
        size: height and width of the pictures in pixels, a multiple of `CELLS`.
    """

    CELLS = 8

    def __init__(self, continuous=False, size=8):
        """Set the spaces."""
        self.observation_space = gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = (
            gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32) if continuous else gymnasium.spaces.Discrete(3)
        )
        self.continuous, self.cell = continuous, size // self.CELLS

    def choice(self, action):
        """Return the choice of an action: 0, 1 or 2."""
        return int(np.digitize(action[0], [-1 / 3, 1 / 3])) if self.continuous else int(action)

    def enlarge(self, cells):
        """Return the picture of `[CELLS, CELLS, 3]` cells."""
        return cells.repeat(self.cell, 0).repeat(self.cell, 1)


class Colours(PictureProbe):
    """Probe of pictures: a bandit whose picture has the colour of the rewarded choice, red, green or blue."""

    def reset(self, seed=None, options=None):
        """Begin an episode of one step."""
        super().reset(seed=seed)
        self.colour = int(self.np_random.integers(3))
        return self._picture(), {}

    def step(self, action):
        """Return 1 for the choice with the shown colour, else 0."""
        return self._picture(), float(self.choice(action) == self.colour), True, False, {}

    def _picture(self):
        """Return a picture of one colour."""
        cells = np.zeros((self.CELLS, self.CELLS, 3), np.uint8)
        cells[..., self.colour] = 255
        return self.enlarge(cells)


class Follow(PictureProbe):
    """Probe of positions in pictures: a marker at the bottom must follow a dot at the top.

    The choices move the marker to the left, not at all, or to the right. The dot then moves by one cell and turns at
    the borders. The reward is 1 if they are at most one cell apart, so a policy that moves towards the dot gets
    `STEPS` from single frames. A policy that ignores them gets about half of that.

    Args:
        noise: largest value of the other pixels, which are random. Black ones leave many units at the kink of a ReLU,
            where a rounding changes gradients.
        options: arguments of `PictureProbe`.
    """

    STEPS = 20

    def __init__(self, noise=0, **options):
        """Store the noise."""
        super().__init__(**options)
        self.noise = noise

    def reset(self, seed=None, options=None):
        """Begin an episode with the marker below the dot."""
        super().reset(seed=seed)
        self.time = 0
        self.dot = self.marker = int(self.np_random.integers(self.CELLS))
        self.direction = int(self.np_random.choice([-1, 1]))
        return self._picture(), {}

    def step(self, action):
        """Move the marker and then the dot."""
        self.time += 1
        self.marker = min(max(self.marker + self.choice(action) - 1, 0), self.CELLS - 1)
        if not 0 <= self.dot + self.direction < self.CELLS:
            self.direction = -self.direction
        self.dot += self.direction
        reward = float(abs(self.dot - self.marker) <= 1)
        return self._picture(), reward, False, self.time == self.STEPS, {}

    def _picture(self):
        """Return a picture with a red dot at the top and a green marker at the bottom."""
        cells = self.np_random.integers(self.noise + 1, size=(self.CELLS, self.CELLS, 3), dtype=np.uint8)
        cells[1, self.dot, 0] = cells[-2, self.marker, 1] = 255
        return self.enlarge(cells)


register("Constant-v0", entry_point=Probe)
for env in (Predict, Discount, Endless, Act, ActOnObs, Colours, Follow):
    register(f"{env.__name__}-v0", entry_point=env)
