"""What an environment holds, as plain data, and a second environment put into the same state. Nothing is pickled.

`capture` walks what an environment consists of (its wrappers, their attributes, the objects in these) and writes down
all that is plain: numbers, texts, arrays, generators, containers of such. `restore` puts that into an environment made
in the same way, at the same places. What can't be written down (functions, renderers, things of C) is left as the other
environment has it. Whether that is enough isn't assumed but found out: `why_not_snapshotable` steps two side by side.
"""

from __future__ import annotations

import copy
import enum
import random
import sys
import time
import types
from collections import deque
from collections.abc import Callable
from contextlib import closing
from typing import Any

import gymnasium
import numpy as np

from sheeprl.envs import global_rng

Plain = Any
"""None, numbers, texts, arrays, and tuples, lists and dicts of these."""

MOST_PARTS = 100_000  # of an environment that is written down: more, and something else hangs on it
PROBE_STEPS = 100
PROBE_SECONDS = 2.0
LEAST_PROBE_STEPS = 5
STEP = ("observation", "reward", "terminated", "truncated")


class StateError(ValueError):
    """An environment can't be put into a state."""


class SnapshotEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The outermost wrapper of an environment in a vector: lets the vector ask for its state and set it.

    A vector resets an environment in the step after its episode's end, and remembers that in places of its own, which
    a state can't reach. So an environment that is put at the end of an episode resets itself in the next step.

    Attributes:
        alone: whether the environment has its process to itself, so that the process's generators are its own.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.ended = self.resets_itself = self.alone = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self.ended = self.resets_itself = False
        if self.alone and seed is not None:
            global_rng.seed_all(seed)
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step."""
        if self.resets_itself:
            obs, info = self.reset()
            return obs, 0.0, False, False, info
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.ended = bool(terminated or truncated)
        return obs, reward, terminated, truncated, info

    @property
    def snapshot(self) -> Plain:
        """What it holds."""
        own = global_rng.capture() if self.alone else None
        return {"ended": self.ended, "env": capture(self.env), "generators": own}

    @snapshot.setter
    def snapshot(self, state: Plain) -> None:
        restore(self.env, state["env"])
        if self.alone and state["generators"] is not None:
            global_rng.restore(state["generators"])
        self.ended = self.resets_itself = bool(state["ended"])


# ------------------------------------------------------------------------------------------------- walking


def capture(root: Any) -> Plain:
    """What an object consists of, as plain data.

    Raises:
        StateError: it consists of too much.
    """
    return _Capture().visit(root)


def restore(root: Any, state: Plain) -> None:
    """Put an object into the state of another one that was made in the same way.

    Raises:
        StateError: it doesn't consist of the same parts.
    """
    try:
        _Restore().visit(root, state)
    except StateError:
        raise
    except Exception as error:  # an attribute that can't be set, a generator of another kind, …
        raise StateError(f"{type(error).__name__}: {error}") from error


def _is_walked(value: Any) -> bool:
    """Whether an object is looked into: not if it is of the standard library, where all hangs together."""
    if isinstance(value, types.SimpleNamespace):
        return True
    if isinstance(
        value, (type, types.ModuleType, types.FunctionType, types.MethodType, gymnasium.envs.registration.EnvSpec)
    ):
        return False
    package = type(value).__module__.partition(".")[0]
    return hasattr(value, "__dict__") and package not in sys.stdlib_module_names and package != "torch"


def _is_mujoco_data(value: Any) -> bool:
    return type(value).__name__ == "MjData" and type(value).__module__.partition(".")[0] == "mujoco"


class _Capture:
    def __init__(self) -> None:
        self.seen: dict[int, int] = {}  # number of each part by its id
        self.alive: list[Any] = []  # so that no id is given twice

    def visit(self, value: Any) -> Plain:
        """`(kind, content)`; the kind "other" for what is left out."""
        if value is None or (
            isinstance(value, (bool, int, float, complex, str, bytes)) and not isinstance(value, enum.Enum)
        ):
            return ("value", value)
        if isinstance(value, np.generic):
            return ("scalar", np.asarray(value)) if value.dtype != object else ("other", None)
        if isinstance(value, enum.Enum):
            return ("enum", value.name)
        if id(value) in self.seen:
            return ("again", self.seen[id(value)])
        kind = self._kind(value)
        if kind == "other":
            return ("other", None)
        self.seen[id(value)] = len(self.seen)
        self.alive.append(value)
        if len(self.seen) > MOST_PARTS:
            raise StateError(f"it consists of more than {MOST_PARTS} parts")
        return (kind, self._content(kind, value))

    def _kind(self, value: Any) -> str:
        kinds: tuple[tuple[Any, str], ...] = (
            (np.ndarray, "array"),
            (np.random.Generator, "generator"),
            (np.random.RandomState, "random_state"),
            (random.Random, "random"),
            (list, "list"),
            (tuple, "tuple"),
            (deque, "deque"),
            (frozenset, "frozenset"),
            (set, "set"),
            (dict, "dict"),
            (gymnasium.Space, "space"),
        )
        for types_, kind in kinds:
            if isinstance(value, types_):
                return "other" if kind == "array" and value.dtype.hasobject else kind
        if _is_mujoco_data(value):
            return "mujoco"
        return "object" if _is_walked(value) else "other"

    def _content(self, kind: str, value: Any) -> Plain:
        if kind == "array":
            return value.copy()
        if kind == "generator":
            return _plain_generator(value.bit_generator.state)
        if kind == "random_state":
            return _plain_generator(value.get_state(legacy=False))
        if kind == "random":
            return value.getstate()
        if kind in CONTAINERS:
            return [self.visit(part) for part in value]
        if kind == "dict":
            return [(self.visit(key), self.visit(part)) for key, part in value.items()]
        if kind == "mujoco":
            return _mujoco_state(value)
        attributes = {"_np_random": vars(value).get("_np_random")} if kind == "space" else vars(value)
        return {name: self.visit(part) for name, part in attributes.items()}


_MISSING = object()
CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "deque": deque,
    "set": set,
    "frozenset": frozenset,
}


class _Restore:
    def __init__(self) -> None:
        self.made: list[Any] = []

    def visit(self, target: Any, state: Plain) -> Any:
        """What has to be at the place where `target` is: that itself, changed, or something new."""
        kind, content = state
        if kind == "value":
            return content
        if kind == "scalar":
            return content[()]
        if kind == "enum":
            return type(target)[content]
        if kind == "again":
            return self.made[content]
        if kind == "other":
            return target
        number = len(self.made)
        self.made.append(target)
        self.made[number] = self._restored(kind, target, content)
        return self.made[number]

    def _restored(self, kind: str, target: Any, content: Plain) -> Any:
        if kind == "array":
            return content.copy()
        if kind in CONTAINERS:
            return self._container(kind, target, content)
        if kind == "dict":
            return self._dict(target if isinstance(target, dict) else {}, content)
        if target is _MISSING or target is None:
            raise StateError(f"a {kind} isn't there in an environment that was just made")
        if kind == "generator":
            target.bit_generator.state = content
        elif kind == "random_state":
            target.set_state(content)
        elif kind == "random":
            target.setstate(content)
        elif kind == "mujoco":
            _set_mujoco_state(target, content)
        else:
            self._attributes(target, content)
        return target

    def _container(self, kind: str, target: Any, content: list[Plain]) -> Any:
        make = CONTAINERS[kind]
        alike = isinstance(target, make) if isinstance(make, type) else False
        before = list(target) if alike else []
        parts = [self.visit(before[n] if n < len(before) else _MISSING, part) for n, part in enumerate(content)]
        if any(part is _MISSING for part in parts):
            raise StateError(f"a {kind} holds something that can't be kept")
        if not alike:
            return make(parts)
        if kind == "tuple":
            return type(target)(*parts) if hasattr(target, "_fields") else make(parts)
        if kind == "frozenset":
            return make(parts)
        target.clear()  # the same one, since others may hold it too
        target.update(parts) if kind == "set" else target.extend(parts)
        return target

    def _dict(self, target: dict[Any, Any], content: list[tuple[Plain, Plain]]) -> dict[Any, Any]:
        parts = []
        for key, part in content:
            name = self.visit(_MISSING, key)
            parts.append((name, self.visit(target.get(name, _MISSING) if name is not _MISSING else _MISSING, part)))
        if any(name is _MISSING or part is _MISSING for name, part in parts):
            raise StateError("a dictionary holds something that can't be kept")
        target.clear()
        target.update(parts)
        return target

    def _attributes(self, target: Any, content: dict[str, Plain]) -> None:
        own = vars(target)
        for name, part in content.items():
            before = own.get(name, _MISSING)
            after = self.visit(before, part)
            if after is not before and after is not _MISSING:
                own[name] = after  # past properties and wrappers that forward what is set


def _plain_generator(state: Any) -> Plain:
    """The state of a generator, with NumPy's own numbers as arrays."""
    return {key: _plain_generator(part) for key, part in state.items()} if isinstance(state, dict) else copy.copy(state)


def _mujoco_state(data: Any) -> dict[str, Any]:
    """Every array of fixed size, derived ones too: environments read those of the step before."""
    arrays = {}
    for name in dir(data):
        value = None if name.startswith("_") else getattr(data, name, None)
        if isinstance(value, np.ndarray) and value.flags.writeable and not value.dtype.hasobject:
            arrays[name] = value.copy()
    return {"time": float(data.time), "arrays": arrays}


def _set_mujoco_state(data: Any, state: dict[str, Any]) -> None:
    for name, values in state["arrays"].items():
        there = getattr(data, name, None)
        if isinstance(there, np.ndarray) and there.shape == values.shape:  # others are made anew in each step
            there[...] = values
    data.time = state["time"]


# ------------------------------------------------------------------------------------------------- proving


class VectorState:
    """A vector of environments of its own kind, which resets by itself, as `SnapshotEnv` is one environment."""

    def __init__(self, envs: gymnasium.vector.VectorEnv[Any, Any, Any]) -> None:
        self.envs = envs
        self.action_space = envs.action_space
        self.ended = self.resets_itself = False

    def reset(self, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin new episodes."""
        return self.envs.reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, ...]:
        """Take a step in each."""
        return tuple(copy.deepcopy(part) for part in self.envs.step(action))

    @property
    def snapshot(self) -> Plain:
        """What it holds."""
        return capture(self.envs)

    @snapshot.setter
    def snapshot(self, state: Plain) -> None:
        restore(self.envs, state)

    def close(self) -> None:
        """Close it."""
        self.envs.close()


def why_not_snapshotable(make: Callable[[], SnapshotEnv | VectorState]) -> str:
    """Step an environment and one that was put into its state side by side; "" if they can't be told apart.

    It takes no more than some seconds, however slow the environment is, and leaves the global generators alone.

    Args:
        make: makes one.
    """
    with global_rng.kept():
        try:
            with closing(make()) as one, closing(make()) as other:
                return _Probe(one, other).run()
        except Exception as error:  # whatever an environment raises here, it is no reason not to play it
            return f"{type(error).__name__}: {' '.join(str(error).split())}"


class _Probe:
    def __init__(self, one: SnapshotEnv | VectorState, other: SnapshotEnv | VectorState) -> None:
        self.one, self.other = one, other
        self.actions = copy.deepcopy(one.action_space)
        self.actions.seed(0)
        self.until = time.monotonic() + PROBE_SECONDS

    def run(self) -> str:
        self.one.reset(seed=1)
        self.other.reset(seed=2)
        for most in (7, PROBE_STEPS):  # in the middle of an episode, and at its end if that comes soon
            self._play_on(most, until_end=most == PROBE_STEPS)
            self.other.snapshot = self.one.snapshot
            self.one.resets_itself = self.one.ended
            if problem := self._compare(PROBE_STEPS // 2) or self._compare_reset() or self._compare(PROBE_STEPS // 2):
                return problem
        return ""

    def _play_on(self, most: int, until_end: bool) -> None:
        for number in range(most):
            if number >= LEAST_PROBE_STEPS and time.monotonic() > self.until:
                return
            if self.one.ended:
                if until_end:
                    return
                self.one.reset()
            self.one.step(self.actions.sample())

    def _compare(self, steps: int) -> str:
        for number in range(steps):
            if number >= LEAST_PROBE_STEPS and time.monotonic() > self.until:
                break
            action = self.actions.sample()
            ones, others = self._of_both(lambda env, action=action: env.step(action))  # type: ignore[misc]
            for what, a, b in zip(STEP, ones[:4], others[:4], strict=True):
                if not _same(a, b):
                    return f"put into the same state it goes on differently: the {what} of step {number + 1} differs"
            self.one.resets_itself, self.other.resets_itself = self.one.ended, self.other.ended
        return ""

    def _of_both(self, do: Callable[[SnapshotEnv | VectorState], tuple[Any, ...]]) -> tuple[Any, Any]:
        """What comes of the same done to both, with the process's generators at the same place."""
        before = global_rng.capture()
        of_one = do(self.one)
        global_rng.restore(before)
        return of_one, do(self.other)

    def _compare_reset(self) -> str:
        (a, _), (b, _) = self._of_both(lambda env: env.reset())
        return "" if _same(a, b) else "put into the same state it begins another episode"


def _same(one: Any, other: Any) -> bool:
    """Bit by bit; what isn't a number equals itself."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    a, b = np.asarray(one), np.asarray(other)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
