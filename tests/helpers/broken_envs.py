"""Environments that `check-env` refuses or warns about: each is ordinary in all respects but one."""

import itertools
import random
import time

import gymnasium
import numpy as np
from gymnasium import spaces

from tests.helpers.odd_envs import BOX, Simple


class Sound(gymnasium.Env):
    """Deterministic episodes of 7 steps with random observations; the base of the others."""

    observation_space = BOX
    action_space = spaces.Discrete(3)
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - gymnasium's form

    def __init__(self, render_mode=None):
        """Start before the first episode."""
        self.render_mode = render_mode
        self.at = 0

    def reset(self, *, seed=None, options=None):
        """Start an episode."""
        super().reset(seed=seed)
        self.at = 0
        return self.observe(), {}

    def step(self, action):
        """Step; an episode has 7 steps."""
        self.at += 1
        return self.observe(), float(action), self.at == 7, False, {}

    def observe(self):
        """Return a random observation."""
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)

    def render(self):
        """Return a black picture."""
        return np.zeros((8, 6, 3), np.uint8)


class Outside(Sound):
    def observe(self):
        """Return an observation outside the space."""
        return 5 + super().observe()


class Double(Sound):
    def observe(self):
        """Return doubles."""
        return self.np_random.uniform(-1, 1, 2)


class WrongShape(Sound):
    def observe(self):
        """Return an observation of a wrong shape."""
        return np.zeros(3, np.float32)


class LateShape(Sound):
    def observe(self):
        """Return an observation whose shape changes in step 4."""
        return np.zeros(2 + self.at // 4, np.float32)


class NoNumbers(Sound):
    def observe(self):
        """Return a text."""
        return "left"


class Nan(Sound):
    def observe(self):
        """Return NaN in step 5."""
        return np.array([0.5, np.nan if self.at == 5 else 0.1], np.float32)


class Unchanging(Sound):
    def observe(self):
        """Return zeros."""
        return np.zeros(2, np.float32)


class Aliased(Sound):
    def __init__(self, render_mode=None):
        """Allocate the array that all observations share."""
        super().__init__(render_mode)
        self.array = np.zeros(2, np.float32)

    def observe(self):
        """Return the shared array."""
        self.array[:] = super().observe()
        return self.array


class Changed(Sound):
    """A part of the result of a step is another value, from step `since` on."""

    def __init__(self, part, value, since=2, render_mode=None):
        """Store the part of the result and its value."""
        super().__init__(render_mode)
        values = {"nan": float("nan"), "array": np.ones(1), "pair": np.ones(2), "none": None}
        self.part, self.value, self.since = part, values.get(value, value), since

    def step(self, action):
        """Step and replace a part of the result."""
        result = list(super().step(action))
        if self.at >= self.since:
            result[("obs", "reward", "terminated", "truncated", "info").index(self.part)] = self.value
        return tuple(result)


class NoSeed(Sound):
    def reset(self):
        """Start an episode without a seed."""
        self.at = 0
        return self.observe(), {}


class Unseeded(Sound):
    """Its generator isn't that of the seed."""

    def __init__(self, render_mode=None):
        """Make a generator without a seed."""
        super().__init__(render_mode)
        self.generator = np.random.default_rng()

    def observe(self):
        """Return numbers of the generator without a seed."""
        return self.generator.uniform(-1, 1, 2).astype(np.float32)


class ProcessWide(Sound):
    """Its generator is that of the process."""

    def observe(self):
        """Return numbers of the process's generators."""
        return np.array([random.uniform(-1, 1), np.random.uniform(-1, 1)], np.float32)


class Shared(Sound):
    """All instances count the same steps."""

    count = itertools.count()

    def reset(self, *, seed=None, options=None):
        """Reset the count of all instances."""
        type(self).total = 0
        return super().reset(seed=seed, options=options)

    def observe(self):
        """Return the count of all instances."""
        type(self).total = getattr(type(self), "total", 0) + 1
        return np.array([self.total % 7, 0], np.float32) / 10


class Remembers(Sound):
    """A reset keeps what happened before."""

    def __init__(self, render_mode=None):
        """Start to count all observations."""
        super().__init__(render_mode)
        self.all = 0

    def observe(self):
        """Return the count of all observations."""
        self.all += 1
        return np.array([(self.all % 1000) / 1000, 0], np.float32)


class OnceOnly(Sound):
    """A step after the end of an episode raises."""

    def step(self, action):
        """Step, or raise after the end of an episode."""
        assert self.at < 7, "the episode is over"
        return super().step(action)


class Quits(Sound):
    def step(self, action):
        """Exit the process."""
        raise SystemExit(3)


class GrowingActions(Sound):
    def step(self, action):
        """Step and change the action space."""
        self.action_space = spaces.Discrete(3 + self.at % 2)
        return super().step(action)


class NeverEnding(Sound):
    def step(self, action):
        """Step; an episode never ends."""
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, False, info


class NoReward(Sound):
    def step(self, action):
        """Step without a reward."""
        obs, _, terminated, truncated, info = super().step(action)
        return obs, 0, terminated, truncated, info | {"success": True, "winner": "red"}


class Hangs(Sound):
    """A call sleeps.

    Args:
        where: `constructor`, `reset` or `step`.
    """

    def __init__(self, where, render_mode=None):
        """Sleep if the constructor is chosen."""
        super().__init__(render_mode)
        self.where = where
        self.hang("constructor")

    def reset(self, *, seed=None, options=None):
        """Sleep if `reset` is chosen."""
        self.hang("reset")
        return super().reset(seed=seed, options=options)

    def step(self, action):
        """Sleep if `step` is chosen."""
        self.hang("step")
        return super().step(action)

    def hang(self, where):
        """Sleep if the call is the chosen one."""
        if where == self.where:
            time.sleep(60)


class NoPicture(Sound):
    def render(self):
        """Raise an error."""
        raise RuntimeError("no display")


class NeedsArgument(Sound):
    def __init__(self, level, render_mode=None):
        """Require an argument."""
        super().__init__(render_mode)


class Fails(Sound):
    def __init__(self, render_mode=None):
        """Raise an error."""
        raise OSError("the simulator isn't running")


class NeedsPackage(Sound):
    def __init__(self, render_mode=None):
        """Import a missing package."""
        import a_simulator_that_is_missing  # noqa: F401


class WrongMask(Sound):
    """The mask is too short, or permits nothing.

    Args:
        size: length of the mask.
    """

    def __init__(self, size=3, render_mode=None):
        """Make a mask of the chosen length."""
        super().__init__(render_mode)
        self.observation_space = spaces.Dict({"a": BOX, "action_mask": spaces.MultiBinary(size)})
        self.size = size

    def observe(self):
        """Return an observation with a mask that permits nothing."""
        return {"a": super().observe(), "action_mask": np.zeros(self.size, np.int8)}


class OddActions(Sound):
    action_space = spaces.Text(4)


class Words(Sound):
    observation_space = spaces.Dict({"a": BOX, "text": spaces.Text(4)})


class OwnSpace(Sound):
    """A part of the observation has a kind of space that gymnasium doesn't know."""

    class Mission(spaces.Space):
        """Texts of one word."""

        def sample(self, mask=None):
            """Return a text."""
            return "go"

        def contains(self, x):
            """Return True for the only text."""
            return x == "go"

    observation_space = spaces.Dict({"a": BOX, "mission": Mission()})


class Unlimited(Sound):
    """Continuous actions without bounds."""

    action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def step(self, action):
        """Step with a constant action."""
        return super().step(0)


class WithMask(Simple):
    """Ordinary, with a mask of the last choice."""

    observation_space = spaces.Dict({"a": BOX, "action_mask": spaces.MultiBinary(2)})

    def observe(self):
        """Return an observation with a mask."""
        return {"a": self.np_random.uniform(-1, 1, 2).astype(np.float32), "action_mask": np.array([1, 0], np.int8)}

    def step(self, action):
        """Step, or raise for a forbidden action."""
        assert action == 0, "a forbidden action"
        return super().step(action)


for _class in [*Sound.__subclasses__(), Sound, WithMask]:
    if f"{_class.__name__}-v0" not in gymnasium.registry:
        gymnasium.register(f"{_class.__name__}-v0", f"{__name__}:{_class.__name__}")
