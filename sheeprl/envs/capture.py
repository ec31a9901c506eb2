"""Capture and restore the state of an environment as plain data, without pickle.

`capture` walks an environment: its wrappers, their attributes and the objects in these. It copies all plain values:
numbers, strings, arrays, random generators and containers of these. `restore` writes them into an environment that was
made in the same way. Other values (functions, renderers, C objects) stay as the target has them, except for the
simulations of MuJoCo and of ale-py.
"""

from __future__ import annotations

import copy
import enum
import random
import sys
import types
from collections import deque
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

Plain = Any
"""None, numbers, texts, arrays, and tuples, lists and dicts of these."""

MAX_PARTS = 100_000  # objects in one snapshot; an environment with more refers to something outside itself


class StateError(ValueError):
    """Raised when a state can't be captured or restored."""


def capture(root: Any) -> Plain:
    """Return the state of an object as plain data.

    Raises:
        StateError: the object has more than `MAX_PARTS` parts.
    """
    return _Capture().visit(root)


def restore(root: Any, state: Plain) -> None:
    """Write the state of another object that was made in the same way into this one.

    Raises:
        StateError: the two objects differ in their parts.
    """
    try:
        _Restore().visit(root, state)
    except StateError:
        raise
    except Exception as error:  # an attribute that can't be set, a generator of another kind, …
        raise StateError(f"{type(error).__name__}: {error}") from error


def _is_walked(value: Any) -> bool:
    """Return True if the attributes of an object are walked; those of the standard library and Torch are not."""
    if isinstance(value, types.SimpleNamespace):
        return True
    if isinstance(
        value, (type, types.ModuleType, types.FunctionType, types.MethodType, gymnasium.envs.registration.EnvSpec)
    ):
        return False
    package = _package_of(value)
    return hasattr(value, "__dict__") and package not in sys.stdlib_module_names and package != "torch"


def _package_of(value: Any) -> str:
    """Return the top-level package of a value's class, "" if the class has none."""
    return str(getattr(type(value), "__module__", "")).partition(".")[0]


SIMULATIONS = {
    ("mujoco", "MjData"): "mujoco",
    ("dm_control", "MjModel"): "mujoco_model",
    ("ale_py", "ALEInterface"): "ale",
}
"""Package and class of an object of C -> name of the way in which it is stored."""


class _Capture:
    """Walk of one object graph that copies plain values."""

    def __init__(self) -> None:
        """Start without parts."""
        self.seen: dict[int, int] = {}  # index of each part by its id
        self.alive: list[Any] = []  # references that make every id unique

    def visit(self, value: Any) -> Plain:
        """Return `(kind, content)`; the kind is "other" for values that are left out."""
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
        if len(self.seen) > MAX_PARTS:
            raise StateError(f"it has more than {MAX_PARTS} parts")
        return (kind, self._content(kind, value))

    def _kind(self, value: Any) -> str:
        """Return the name of the way in which a value is stored."""
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
        if simulation := SIMULATIONS.get((_package_of(value), type(value).__name__)):
            return simulation
        return "object" if _is_walked(value) else "other"

    def _content(self, kind: str, value: Any) -> Plain:
        """Return the plain data of a value of this kind."""
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
        if kind in WRITERS:
            return WRITERS[kind][0](value)
        if kind == "space":
            return {"_np_random": self.visit(vars(value).get("_np_random"))}
        return {CLASS: _class_path(value)} | {name: self.visit(part) for name, part in vars(value).items()}


_MISSING = object()
CLASS = ""
"""Key of an object's class among its attributes; states of earlier versions have none."""
CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "deque": deque,
    "set": set,
    "frozenset": frozenset,
}


class _Restore:
    """Walk of one object graph that writes captured values into it."""

    def __init__(self) -> None:
        """Start without parts."""
        self.made: list[Any] = []  # restored parts, by index
        self.used: set[int] = set()  # ids of the objects of the target that parts were written into

    def visit(self, target: Any, state: Plain) -> Any:
        """Return the value that replaces `target`: the target itself, updated, or a new object."""
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
        if kind == "object":
            target = self._object(target, content.get(CLASS))
        elif kind in ("generator", "random_state") and (target is _MISSING or target is None):
            target = _new_generator(kind, content)
        number = len(self.made)
        self.made.append(target)
        self.made[number] = self._restored(kind, target, content)
        return self.made[number]

    def _restored(self, kind: str, target: Any, content: Plain) -> Any:
        """Return `target` with the content written into it, or a new object."""
        if kind == "array":
            return content.copy()
        if kind in CONTAINERS:
            return self._container(kind, target, content)
        if kind == "dict":
            return self._dict(target if isinstance(target, dict) else {}, content)
        if target is _MISSING or target is None:
            raise StateError(f"a {kind} is missing from a newly made environment")
        if kind == "generator":
            target.bit_generator.state = content
        elif kind == "random_state":
            target.set_state(content)
        elif kind == "random":
            target.setstate(content)
        elif kind in WRITERS:
            WRITERS[kind][1](target, content)
        else:
            self._attributes(target, content)
        return target

    def _object(self, target: Any, path: str | None) -> Any:
        """Return the object to write into: the target, or a new one where it is missing or of another class.

        A new object's class is one of the packages of the environment, already imported, and made without a call.
        """
        if path is None or (_class_path(target) == path and id(target) not in self.used):
            self.used.add(id(target))
            return target
        module, _, name = path.partition(":")
        found: Any = sys.modules.get(module) if module.partition(".")[0] in set(map(_package_of, self.made)) else None
        for part in name.split("."):
            found = getattr(found, part, None)
        has_own_new = any("__new__" in vars(base) for base in getattr(found, "__mro__", ())[:-1])
        if not isinstance(found, type) or has_own_new:
            return target if _class_path(target) == path else _MISSING
        return object.__new__(found)

    def _container(self, kind: str, target: Any, content: list[Plain]) -> Any:
        """Return a list, tuple, deque or set with the restored parts, in place if the type matches."""
        make = CONTAINERS[kind]
        alike = isinstance(target, make) if isinstance(make, type) else False
        before = list(target) if alike else []
        parts = [self.visit(before[n] if n < len(before) else _MISSING, part) for n, part in enumerate(content)]
        if any(part is _MISSING for part in parts):
            raise StateError(f"a {kind} holds a value that can't be saved")
        if not alike:
            return make(parts)
        if kind == "tuple":
            return type(target)(*parts) if hasattr(target, "_fields") else make(parts)
        if kind == "frozenset":
            return make(parts)
        target.clear()  # in place, since other objects may refer to it
        target.update(parts) if kind == "set" else target.extend(parts)
        return target

    def _dict(self, target: dict[Any, Any], content: list[tuple[Plain, Plain]]) -> dict[Any, Any]:
        """Restore a dictionary in place."""
        parts = []
        names = list(target)
        for number, (key, part) in enumerate(content):
            is_named_by_place = key[0] == "other" and len(names) == len(content)  # such as a class
            name = self.visit(names[number] if is_named_by_place else _MISSING, key)
            parts.append((name, self.visit(target.get(name, _MISSING) if name is not _MISSING else _MISSING, part)))
        if any(name is _MISSING or part is _MISSING for name, part in parts):
            raise StateError("a dictionary holds a value that can't be saved")
        target.clear()
        target.update(parts)
        return target

    def _attributes(self, target: Any, content: dict[str, Plain]) -> None:
        """Restore the attributes of an object in place."""
        own = vars(target)
        for name, part in content.items():
            if name == CLASS:
                continue
            before = own.get(name, _MISSING)
            after = self.visit(before, part)
            if after is not before and after is not _MISSING:
                own[name] = after  # bypasses properties and wrappers that forward assignments


def _class_path(value: Any) -> str:
    """Return `module:qualified name` of a value's class."""
    return f"{getattr(type(value), '__module__', '')}:{type(value).__qualname__}"


def _new_generator(kind: str, state: Any) -> Any:
    """Return a generator that a state can be written into."""
    if kind == "random_state":
        return np.random.RandomState()
    makers = {name: getattr(np.random, name) for name in ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")}
    return np.random.Generator(makers[state["bit_generator"]]())


def _plain_generator(state: Any) -> Plain:
    """Return a copy of a generator's state."""
    return {key: _plain_generator(part) for key, part in state.items()} if isinstance(state, dict) else copy.copy(state)


def _mujoco_state(data: Any) -> dict[str, Any]:
    """Copy all writable arrays, derived ones too: environments read those of the previous step."""
    return {"time": float(data.time), "arrays": _writable_arrays(data)}


def _set_mujoco_state(data: Any, state: dict[str, Any]) -> None:
    """Write the arrays and the time into an `MjData`.

    The first half of a step is taken in between: it computes the contacts, which dm_control's next step begins with.
    """
    _write_arrays(data, state["arrays"])
    if (model := getattr(data, "model", None)) is not None:
        sys.modules["mujoco"].mj_step1(model, data)
        _write_arrays(data, state["arrays"])
    data.time = state["time"]


LARGE = ("tex_", "mesh_", "skin_", "flex", "bvh_", "oct_", "name", "text_")
"""Beginnings of the names of a model's arrays that hold its looks and shapes, not what a task draws per episode."""


def _model_state(model: Any) -> dict[str, Any]:
    """Copy the arrays of a model, some of which the tasks of dm_control draw per episode."""
    return {name: values for name, values in _writable_arrays(model).items() if not name.startswith(LARGE)}


def _writable_arrays(owner: Any) -> dict[str, Any]:
    """Return copies of the writable arrays among an object's attributes."""
    arrays = {}
    for name in dir(owner):
        value = None if name.startswith("_") else getattr(owner, name, None)
        if isinstance(value, np.ndarray) and value.flags.writeable and not value.dtype.hasobject:
            arrays[name] = value.copy()
    return arrays


def _write_arrays(owner: Any, arrays: dict[str, Any]) -> None:
    """Write arrays into those of another object; MuJoCo recomputes the ones whose size varies in each step."""
    for name, values in arrays.items():
        there = getattr(owner, name, None)
        if isinstance(there, np.ndarray) and there.shape == values.shape:
            there[...] = values


def _ale_state(ale: Any) -> bytes:
    """Return the state of an emulator with its generator, as ale-py serializes it."""
    return ale.cloneState(include_rng=True).serialize()  # type: ignore[no-any-return]


def _set_ale_state(ale: Any, state: bytes) -> None:
    """Write a state into an emulator; its screen follows with the next step."""
    ale.restoreState(sys.modules["ale_py"].ALEState(state))


WRITERS: dict[str, tuple[Callable[[Any], Plain], Callable[[Any, Any], None]]] = {
    "mujoco": (_mujoco_state, _set_mujoco_state),
    "mujoco_model": (_model_state, _write_arrays),
    "ale": (_ale_state, _set_ale_state),
}
"""Way in which a simulation is stored -> the functions that return its state and write it."""
