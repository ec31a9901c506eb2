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
        self.render_mode = render_mode
        self.at = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return self.observe(), {}

    def step(self, action):
        self.at += 1
        return self.observe(), float(action), self.at == 7, False, {}

    def observe(self):
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)

    def render(self):
        return np.zeros((8, 6, 3), np.uint8)


class Outside(Sound):
    def observe(self):
        return 5 + super().observe()


class Double(Sound):
    def observe(self):
        return self.np_random.uniform(-1, 1, 2)


class WrongShape(Sound):
    def observe(self):
        return np.zeros(3, np.float32)


class LateShape(Sound):
    def observe(self):
        return np.zeros(2 + self.at // 4, np.float32)


class NoNumbers(Sound):
    def observe(self):
        return "left"


class Nan(Sound):
    def observe(self):
        return np.array([0.5, np.nan if self.at == 5 else 0.1], np.float32)


class Constant(Sound):
    def observe(self):
        return np.zeros(2, np.float32)


class Aliased(Sound):
    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.array = np.zeros(2, np.float32)

    def observe(self):
        self.array[:] = super().observe()
        return self.array


class Changed(Sound):
    """A part of the result of a step is another value, from step `since` on."""

    def __init__(self, part, value, since=2, render_mode=None):
        super().__init__(render_mode)
        values = {"nan": float("nan"), "array": np.ones(1), "pair": np.ones(2), "none": None}
        self.part, self.value, self.since = part, values.get(value, value), since

    def step(self, action):
        result = list(super().step(action))
        if self.at >= self.since:
            result[("obs", "reward", "terminated", "truncated", "info").index(self.part)] = self.value
        return tuple(result)


class NoSeed(Sound):
    def reset(self):
        self.at = 0
        return self.observe(), {}


class Unseeded(Sound):
    """Its generator isn't that of the seed."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.generator = np.random.default_rng()

    def observe(self):
        return self.generator.uniform(-1, 1, 2).astype(np.float32)


class ProcessWide(Sound):
    """Its generator is that of the process."""

    def observe(self):
        return np.array([random.uniform(-1, 1), np.random.uniform(-1, 1)], np.float32)


class Shared(Sound):
    """All instances count the same steps."""

    count = itertools.count()

    def reset(self, *, seed=None, options=None):
        type(self).total = 0
        return super().reset(seed=seed, options=options)

    def observe(self):
        type(self).total = getattr(type(self), "total", 0) + 1
        return np.array([self.total % 7, 0], np.float32) / 10


class Remembers(Sound):
    """A reset keeps what happened before."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.all = 0

    def observe(self):
        self.all += 1
        return np.array([(self.all % 1000) / 1000, 0], np.float32)


class OnceOnly(Sound):
    """A step after the end of an episode raises."""

    def step(self, action):
        assert self.at < 7, "the episode is over"
        return super().step(action)


class Quits(Sound):
    def step(self, action):
        raise SystemExit(3)


class GrowingActions(Sound):
    def step(self, action):
        self.action_space = spaces.Discrete(3 + self.at % 2)
        return super().step(action)


class Endless(Sound):
    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, False, info


class NoReward(Sound):
    def step(self, action):
        obs, _, terminated, truncated, info = super().step(action)
        return obs, 0, terminated, truncated, info | {"success": True, "winner": "red"}


class Hangs(Sound):
    """A call sleeps.

    Args:
        where: `constructor`, `reset` or `step`.
    """

    def __init__(self, where, render_mode=None):
        super().__init__(render_mode)
        self.where = where
        self.hang("constructor")

    def reset(self, *, seed=None, options=None):
        self.hang("reset")
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.hang("step")
        return super().step(action)

    def hang(self, where):
        if where == self.where:
            time.sleep(60)


class NoPicture(Sound):
    def render(self):
        raise RuntimeError("no display")


class NeedsArgument(Sound):
    def __init__(self, level, render_mode=None):
        super().__init__(render_mode)


class Fails(Sound):
    def __init__(self, render_mode=None):
        raise OSError("the simulator isn't running")


class NeedsPackage(Sound):
    def __init__(self, render_mode=None):
        import a_simulator_that_is_missing  # noqa: F401


class WrongMask(Sound):
    """The mask is too short, or permits nothing.

    Args:
        size: length of the mask.
    """

    def __init__(self, size=3, render_mode=None):
        super().__init__(render_mode)
        self.observation_space = spaces.Dict({"a": BOX, "action_mask": spaces.MultiBinary(size)})
        self.size = size

    def observe(self):
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
            return "go"

        def contains(self, x):
            return x == "go"

    observation_space = spaces.Dict({"a": BOX, "mission": Mission()})


class Unlimited(Sound):
    """Continuous actions without bounds."""

    action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def step(self, action):
        return super().step(0)


class WithMask(Simple):
    """Ordinary, with a mask of the last choice."""

    observation_space = spaces.Dict({"a": BOX, "action_mask": spaces.MultiBinary(2)})

    def observe(self):
        return {"a": self.np_random.uniform(-1, 1, 2).astype(np.float32), "action_mask": np.array([1, 0], np.int8)}

    def step(self, action):
        assert action == 0, "a forbidden action"
        return super().step(action)


for _class in [*Sound.__subclasses__(), Sound, WithMask]:
    if f"{_class.__name__}-v0" not in gymnasium.registry:
        gymnasium.register(f"{_class.__name__}-v0", f"{__name__}:{_class.__name__}")
