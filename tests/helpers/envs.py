"""Tiny deterministic environments whose observations contain the episode and the step.

Importing this module registers them, so `gymnasium.make("tests.helpers.envs:Counting-v0")` works.
"""

import threading
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from sheeprl.envs.transforms import action_choices


class Counting(gymnasium.Env):
    """Environment that observes `[tag, episode, step]`; the reward of step s is s plus 100 times its action.

    The tag is drawn at every reset, so it identifies the seed. Episodes are counted from the last seeded reset.

    Args:
        lengths: lengths of the episodes, cycled; empty for 1 to 4 steps, by the tag.
        ends: kinds of the episodes' ends, cycled.
    """

    observation_space = spaces.Box(0.0, float(2**20), (3,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, lengths=(3,), ends=("terminated",), render_mode=None):
        """Store the result to change, its kind and the first step with it."""
        self.lengths, self.ends, self.render_mode = tuple(lengths), tuple(ends), render_mode
        self.episode, self.at, self.tag = -1, 0, 0

    @property
    def length(self):
        """Length of the episode."""
        return self.lengths[self.episode % len(self.lengths)] if self.lengths else 1 + self.tag % 4

    def reset(self, *, seed=None, options=None):
        """Reset and change the results."""
        super().reset(seed=seed)
        self.episode = 0 if seed is not None else self.episode + 1
        self.at, self.tag = 0, int(self.np_random.integers(1, 2**20))
        return self.observe(), {}

    def step(self, action):
        """Step and change the results."""
        self.at += 1
        over = self.at >= self.length
        end = self.ends[self.episode % len(self.ends)]
        reward = self.at + 100.0 * int(action)
        return self.observe(), reward, over and end == "terminated", over and end == "truncated", {}

    def observe(self):
        """Return a picture of the episode and the step."""
        return np.array([self.tag, self.episode, self.at], np.float32)


class CountingVector(VectorEnv):
    """Native vector version of `Counting`, which resets in the step after an end."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 - gymnasium's form

    def __init__(self, num_envs, **kwargs):
        """Store the result to change and its kind."""
        self.lanes = [Counting(**kwargs) for _ in range(num_envs)]
        self.num_envs = num_envs
        self.over = np.zeros(num_envs, np.bool_)
        self.single_observation_space, self.single_action_space = Counting.observation_space, Counting.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed=None, options=None):
        """Reset and change the results."""
        self.over[:] = False
        assert not isinstance(seed, list)  # like gymnasium: one seed, from which those of all environments follow
        seeds = [None if seed is None else seed + lane for lane in range(self.num_envs)]
        return np.stack([lane.reset(seed=s)[0] for lane, s in zip(self.lanes, seeds, strict=True)]), {}

    def step(self, actions):
        """Step and change the results."""
        nothing = (0.0, False, False)
        arrivals = [
            (lane.reset()[0], *nothing) if over else lane.step(action)[:4]
            for lane, over, action in zip(self.lanes, self.over, actions, strict=True)
        ]
        obs, reward, terminated, truncated = (np.array(part) for part in zip(*arrivals, strict=True))
        self.over = terminated | truncated
        return obs, reward, terminated, truncated, {}


class OtherVector(CountingVector):
    """Vector version whose observations have another shape than a single environment's."""

    def __init__(self, *args, **kwargs):
        """Store the kind of the observations and the step that leaves their space."""
        super().__init__(*args, **kwargs)
        self.single_observation_space = gymnasium.spaces.Box(-1.0, 1.0, (7,), np.float32)


class SameStepVector(CountingVector):
    """Vector version that resets within the step that ends an episode, which arrival rows can't represent."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - gymnasium's form


class Nested(Counting):
    """`Counting` with nested Dict observations of three dtypes."""

    observation_space = spaces.Dict(
        {
            "where": spaces.Box(-1.0, 1.0, (2,), np.float64),
            "picture": spaces.Box(0, 255, (2, 2, 1), np.uint8),
            "inner": spaces.Dict({"phase": spaces.Discrete(8, start=1)}),
        }
    )

    def observe(self) -> Any:
        """Return the step as a number, an array or a dict."""
        return {
            "where": np.array([self.at / 8, -self.at / 8]),
            "picture": np.full((2, 2, 1), 10 * self.episode + self.at, np.uint8),
            "inner": {"phase": np.int64(1 + self.at)},
        }


class Camera(Counting):
    """`Counting` with bounded continuous actions, seen as a picture."""

    observation_space = spaces.Box(0, 255, (2, 2, 1), np.uint8)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def observe(self) -> Any:
        """Return an observation without a vector form."""
        return np.full((2, 2, 1), 10 * self.episode + self.at, np.uint8)


class Echo(gymnasium.Env):
    """Endless environment that observes the received action (zeros after a reset); its first number is the reward.

    Args:
        kind: kind of the action space.
    """

    SPACES = {  # noqa: RUF012 - constant
        "discrete": spaces.Discrete(3, start=5),
        "multi-discrete": spaces.MultiDiscrete([2, 3], start=[1, -4]),
        "bounded": spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32)),
        "unbounded": spaces.Box(-np.inf, np.inf, (2,), np.float64),
        "matrix": spaces.Box(-3.0, 3.0, (2, 2), np.float32),
        "bits": spaces.MultiBinary((2, 2)),
    }

    def __init__(self, kind="discrete"):
        """Store the kind of the observations."""
        self.action_space = self.SPACES[kind]
        self.size = int(np.prod(self.action_space.shape))
        self.observation_space = spaces.Box(-np.inf, np.inf, (self.size,), np.float32)

    def reset(self, *, seed=None, options=None):
        """Reset and change the results."""
        super().reset(seed=seed)
        return np.zeros(self.size, np.float32), {}

    def step(self, action):
        """Step and change the results."""
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} is not in {self.action_space}")
        received = np.asarray(action, np.float32).reshape(self.size)
        return received, float(received[0]), False, False, {}


class Masked(gymnasium.Env):
    """Endless environment whose observation permits random choices; it raises for forbidden ones.

    Args:
        kind: kind of the action space.
        mask: space of the mask; None for the right one.
    """

    SPACES = {  # noqa: RUF012 - constant
        "discrete": spaces.Discrete(4, start=1),
        "multi-discrete": spaces.MultiDiscrete([2, 3]),
        "multi-binary": spaces.MultiBinary(3),
        "continuous": spaces.Box(-1.0, 1.0, (2,)),
    }

    def __init__(self, kind="discrete", mask=None):
        """Store the kind of the observations."""
        self.action_space = self.SPACES[kind]
        self.choices = action_choices(self.action_space)
        self.observation_space = spaces.Dict(
            {
                "action_mask": self.MASKS[mask] if mask else spaces.MultiBinary(sum(self.choices) or 1),
                "state": spaces.Box(-1.0, 1.0, (3,)),
            }
        )

    MASKS = {  # noqa: RUF012 - constant
        "short": spaces.MultiBinary(3),
        "matrix": spaces.MultiBinary((2, 2)),
        "choice": spaces.Discrete(4),
        "floats": spaces.Box(0.0, 1.0, (4,)),
    }

    def reset(self, *, seed=None, options=None):
        """Reset and change the results."""
        super().reset(seed=seed)
        return self.observe(), {}

    def step(self, action):
        """Step and change the results."""
        components = np.atleast_1d(action) - getattr(self.action_space, "start", 0)
        permitted = np.split(self.mask, np.cumsum(self.choices)[:-1])
        if not all(part[choice] for part, choice in zip(permitted, components, strict=True)):
            raise ValueError(f"{action} is forbidden by {self.mask}")
        return self.observe(), 1.0, False, False, {}

    def observe(self):
        """Return an observation without a vector form."""
        parts = [self.np_random.random(size) < 0.4 for size in self.choices]
        for part in parts:
            part[self.np_random.integers(len(part))] = True
        self.mask = np.concatenate(parts)
        space = self.observation_space["action_mask"]
        state = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return {"action_mask": self.mask.astype(space.dtype), "state": state}


class Raising(Counting):
    """`Counting` that raises in a step or a reset.

    Args:
        where: `step` or `reset`.
        after: number of calls that succeed.
        kwargs: arguments of `Counting`.
    """

    def __init__(self, where="step", after=0, **kwargs):
        """Store the kind of the observations."""
        super().__init__(**kwargs)
        self.where, self.left = where, after

    def reset(self, *, seed=None, options=None):
        """Reset and change the results."""
        self._maybe_raise("reset")
        return super().reset(seed=seed, options=options)

    def step(self, action):
        """Step and change the results."""
        self._maybe_raise("step")
        return super().step(action)

    def _maybe_raise(self, where):
        """Raise in the failing call."""
        if where == self.where:
            if self.left == 0:
                raise RuntimeError(f"broken {where}")
            self.left -= 1


class Odd(Counting):
    """`Counting` that returns something else in the place of one result, from step `since` of an episode on.

    Args:
        result: `obs`, `reward`, `terminated`, `truncated` or `info`.
        kind: a key of `KINDS`.
        since: step from which it is returned; 0 also for the reset.
        kwargs: those of `Counting`.
    """

    KINDS = {  # noqa: RUF012 - never written
        "array": lambda value: np.array([value]),
        "tensor": lambda value: torch.tensor([value]),
        "list": lambda value: [value],
        "text": str,
        "none": lambda value: None,
        "pair": lambda value: np.array([value, value]),
        "double": lambda value: np.asarray(value, np.float64),
        "column": lambda value: np.asarray(value)[:, None],
        "growing": lambda value: {"path": np.arange(value), "lock": threading.Lock()},
        "changing": lambda value: {"goal": {"x": 1.0} if value % 2 else value, "winner": None if value % 2 else "red"},
        "numbers": lambda value: {"success": value > 2, "inner": {"distance": np.float32(value)}, "text": "a"},
    }

    def __init__(self, result="reward", kind="array", since=0, **kwargs):
        """Store the kind of the observations."""
        super().__init__(**kwargs)
        self.result, self.kind, self.since = result, kind, since

    def reset(self, *, seed=None, options=None):
        """Reset and change the results."""
        return self.changed(*super().reset(seed=seed, options=options), names=("obs", "info"))

    def step(self, action):
        """Step and change the results."""
        return self.changed(*super().step(action), names=("obs", "reward", "terminated", "truncated", "info"))

    def changed(self, *results, names):
        """Return the results with the chosen one changed."""
        results = dict(zip(names, results, strict=True))
        if self.result in results and self.at >= self.since:
            value = self.at if self.result == "info" else results[self.result]
            results[self.result] = self.KINDS[self.kind](value)
        return tuple(results.values())


class OddVector(CountingVector):
    """Vector version of `Odd`: the results of all environments of that kind."""

    def __init__(self, num_envs, result="reward", kind="array", since=0, **kwargs):
        """Store the kind of the observations."""
        super().__init__(num_envs, **kwargs)
        self.result, self.kind = result, kind

    def step(self, actions):
        """Step and change the results."""
        results = dict(zip(("obs", "reward", "terminated", "truncated", "info"), super().step(actions), strict=True))
        if self.result == "info":
            at = np.array([lane.at for lane in self.lanes])
            results["info"] = {"success": at > 2, "_success": self.over.copy(), "inner": {"distance": at.astype(float)}}
        else:
            results[self.result] = [Odd.KINDS[self.kind](value) for value in results[self.result]]
        return tuple(results.values())


class Choosing(Counting):
    """`Counting` that observes choices; one of them leaves the space in step `leaves_at` of an episode."""

    SPACES = {  # noqa: RUF012 - never written
        "discrete": spaces.Discrete(9),
        "multi-discrete": spaces.MultiDiscrete([9, 4], start=[0, -1]),
        "equal": spaces.MultiDiscrete([[9, 9], [9, 9]]),
        "dict": spaces.Dict({"phase": spaces.Discrete(9)}),
    }

    def __init__(self, kind="discrete", leaves_at=None, **kwargs):
        """Store the kind of the observations."""
        super().__init__(**kwargs)
        self.kind, self.leaves_at, self.observation_space = kind, leaves_at, self.SPACES[kind]

    def observe(self):
        """Return an observation without a vector form."""
        phase = 9 if self.at == self.leaves_at else self.at
        shown = {"discrete": phase, "multi-discrete": np.array([phase, -1]), "equal": np.full((2, 2), phase)}
        return {"phase": phase} if self.kind == "dict" else shown[self.kind]


class Mission(gymnasium.Space):
    """Kind of space of a package, such as MiniGrid's texts."""

    def contains(self, x):
        """Return True for text."""
        return isinstance(x, str)

    def sample(self, mask=None, probability=None):
        """Return a text."""
        return "go"


class Spoken(Counting):
    """`Counting` whose observations have a part without a vector form.

    Args:
        kind: of the observation space.
    """

    SPACES = {  # noqa: RUF012 - never written
        "text": spaces.Dict({"inner": spaces.Dict({"mission": spaces.Text(5)}), "phase": spaces.Discrete(9)}),
        "sequence": spaces.Dict({"seen": spaces.Sequence(spaces.Discrete(9)), "phase": spaces.Discrete(9)}),
        "tuple": spaces.Tuple((spaces.Discrete(9), spaces.Box(0.0, 1.0, (2,)))),
        "own": spaces.Dict({"mission": Mission(), "phase": spaces.Discrete(9)}),
    }

    def __init__(self, kind="text", **kwargs):
        """Store the kind of the observations."""
        super().__init__(**kwargs)
        self.kind, self.observation_space = kind, self.SPACES[kind]

    def observe(self):
        """Return an observation without a vector form."""
        shown = {"text": {"inner": {"mission": "go"}, "phase": self.at}, "sequence": {"seen": (1, 2), "phase": self.at}}
        shown["own"] = {"mission": "go", "phase": self.at}
        return (self.at, np.zeros(2, np.float32)) if self.kind == "tuple" else shown[self.kind]


def _register(name, env_class, **settings):
    """Register an environment once."""
    if f"{name}-v0" not in gymnasium.registry:
        gymnasium.register(f"{name}-v0", f"tests.helpers.envs:{env_class.__name__}", **settings)


_register("Counting", Counting, vector_entry_point="tests.helpers.envs:CountingVector")
_register("Truncating", Counting, kwargs={"ends": ("truncated",)})
_register("Other", Counting, vector_entry_point="tests.helpers.envs:OtherVector")
_register("SameStep", Counting, vector_entry_point="tests.helpers.envs:SameStepVector")
_register("Odd", Odd, vector_entry_point="tests.helpers.envs:OddVector")
_register("Choosing", Choosing)
_register("Spoken", Spoken)
_register("Nested", Nested)
_register("Camera", Camera)
_register("Echo", Echo)
_register("Masked", Masked)
_register("Raising", Raising)
