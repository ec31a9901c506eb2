"""Tiny environments that deviate from an ordinary one in one respect each."""

import itertools

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)


class Simple(gymnasium.Env):
    """Episodes of 3 steps with reward 1; observations are samples of the space."""

    observation_space = BOX
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        """Start an episode."""
        super().reset(seed=seed)
        self.at = 0
        return self.observe(), {}

    def step(self, action):
        """Step; an episode has three steps."""
        self.at += 1
        return self.observe(), 1.0, self.at == 3, False, {}

    def observe(self):
        """Return a random observation."""
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()


class Recorded(Simple):
    """Records its argument, then changes it."""

    received: list[str] = []  # noqa: RUF012 - of all instances

    def __init__(self, value):
        """Record the argument, then change it."""
        self.received.append(repr(value))
        if isinstance(value, dict):
            value["changed"] = True


class WholeKeys(Simple):
    """Observation keys are whole numbers."""

    observation_space = spaces.Dict({0: spaces.Dict({2: BOX, 10: BOX}), 1: BOX})


class EqualKeys(Simple):
    """Two observation keys have the same text."""

    observation_space = spaces.Dict({0: BOX, "0": BOX})


class Results(Simple):
    """Returns other results than gymnasium requires.

    Args:
        method: `reset` or `step`.
        count: number of returned values, 0 for None.
        space: of the observations; an observation of two numbers or keys can be mistaken for two results.
    """

    def __init__(self, method, count, space=BOX):
        """Store the method and the number of its results."""
        self.method, self.count, self.observation_space = method, count, space

    def reset(self, *, seed=None, options=None):
        """Reset with a wrong number of results."""
        return self.cut("reset", super().reset(seed=seed))

    def step(self, action):
        """Step with a wrong number of results."""
        return self.cut("step", super().step(action))

    def cut(self, method, result):
        """Return `count` results if the method is the chosen one."""
        if method != self.method:
            return result
        return result[: self.count] if self.count > 1 else result[0] if self.count else None


class OldStep(gymnasium.Wrapper):
    """Wrapper whose step returns four values."""

    def step(self, action):
        """Step with four results, as old environments do."""
        obs, reward, terminated, _, info = self.env.step(action)
        return obs, reward, terminated, info


class OldReset(gymnasium.Wrapper):
    """Wrapper whose reset returns the observation only."""

    def reset(self, *, seed=None, options=None):
        """Reset without an info."""
        return self.env.reset(seed=seed, options=options)[0]


class StepFails(Simple):
    """Its step raises."""

    def step(self, action):
        """Raise an error."""
        raise ValueError("a value of the environment's own")


class OldVector(VectorEnv):
    """Native vector version whose `method` returns another number of values."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 - gymnasium's form

    def __init__(self, num_envs, method, count):
        """Store the method and the number of its results."""
        self.num_envs, self.method, self.count = num_envs, method, count
        self.single_observation_space, self.single_action_space = BOX, Simple.action_space
        self.observation_space = batch_space(BOX, num_envs)
        self.action_space = batch_space(Simple.action_space, num_envs)

    def reset(self, *, seed=None, options=None):
        """Reset with a wrong number of results."""
        return (np.zeros((self.num_envs, 2), np.float32), {})[: self.count if self.method == "reset" else 2]

    def step(self, action):
        """Step with a wrong number of results."""
        zeros, nothing = np.zeros((self.num_envs, 2), np.float32), np.zeros(self.num_envs)
        return (zeros, nothing, nothing > 0, nothing > 0, {})[: self.count if self.method == "step" else 5]


class CloseFails(Simple):
    """Its close raises.

    Args:
        quits: raise SystemExit, as a simulator that ends its process does.
    """

    def __init__(self, quits=False):
        """Store if `close` quits the process."""
        self.quits = quits

    def close(self):
        """Raise an error or quit."""
        raise SystemExit(3) if self.quits else RuntimeError("the simulator has gone")


class Varying(Simple):
    """Every instance has another space.

    Args:
        vary: `bounds` or `shape` of the observations, or `actions`.
    """

    made = itertools.count(1)

    def __init__(self, vary):
        """Make a space that differs from that of the other instances."""
        number = next(self.made)
        if vary == "bounds":
            parts = {
                "image": spaces.Box(0, 100 + number, (4,), np.uint8),
                "speed": spaces.Box(-number, 1.0, (), np.float64),
            }
            self.observation_space = spaces.Dict(parts)
        elif vary == "shape":
            self.observation_space = spaces.Box(-1.0, 1.0, (2 + number % 2,), np.float32)
        else:
            self.action_space = spaces.Discrete(2 + number % 2)

    def observe(self):
        """Return a random observation."""
        return self.observation_space.sample()


class OneInstance(Simple):
    """Only one instance can exist at a time."""

    exists = False

    def __init__(self):
        """Raise if another instance exists."""
        if OneInstance.exists:
            raise RuntimeError("the port is in use")
        OneInstance.exists = True

    def close(self):
        """Permit another instance."""
        OneInstance.exists = False


class Large(Simple):
    """Its state takes 12 MiB."""

    def __init__(self):
        """Allocate a large state."""
        self.table = np.zeros((12, 2**17))


class OwnStatistics(gymnasium.Wrapper):
    """Wrapper that counts and averages by itself."""

    def __init__(self, env):
        """Start with running statistics of zeros."""
        super().__init__(env)
        self.running_mean = self.running_var = self.count = 0


class Constants(gymnasium.Wrapper):
    """Wrapper that scales by constants."""

    def __init__(self, env):
        """Start with a mean and a standard deviation."""
        super().__init__(env)
        self.mean, self.std = np.zeros(2), np.ones(2)


for _class in (Simple, Large, OneInstance, Recorded, WholeKeys, EqualKeys, Results, StepFails, CloseFails, Varying):
    if f"{_class.__name__}-v0" not in gymnasium.registry:
        vector = f"{__name__}:OldVector" if _class is Results else None
        gymnasium.register(f"{_class.__name__}-v0", f"{__name__}:{_class.__name__}", vector_entry_point=vector)
