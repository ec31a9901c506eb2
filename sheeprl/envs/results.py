"""Checks of what an environment returns, and its conversion to the types that its spaces declare.

All vectorizations and evaluation use these functions, so a result is accepted or refused in all of them alike.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import gymnasium
import numpy as np
from gymnasium import Space, spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array

from sheeprl.utils.errors import short_repr
from sheeprl.utils.text import counted

EPISODE = "episode_numbers"
"""Key of a vector's info: for each environment whose episode ended, the pairs of `episode_numbers`, else None."""

RETURN, LENGTH = "episode/r", "episode/l"
"""Names of the statistics of an episode among its numbers, from gymnasium's `info["episode"]`."""
STATISTICS = "episode/"

INFO_DEPTH = 3  # levels of nested dicts in an info

Check = Callable[[Any], Any]


class ResultError(ValueError):
    """Raised when an environment returns something that is not what its interface or its spaces declare."""

    def __init__(self, reason: object) -> None:
        """Store the arguments."""
        super().__init__(" ".join(str(reason).split()))


# ------------------------------------------------------------------------------------------- rewards, flags


def to_number(value: Any, name: str) -> float:
    """Return a real number of any type, also that of an array, a tensor or a list with one element.

    Raises:
        ResultError: it is something else; the message begins with `name`.
    """
    number = _number_or_none(value)
    if number is None:
        raise ResultError(f"{name} is {_shown(value)}, not one number; convert it in a wrapper (env.wrappers)")
    return number


def to_flag(value: Any, name: str) -> bool:
    """Return a boolean of any type: also 0 or 1, and that of an array, a tensor or a list with one element.

    Raises:
        ResultError: it is something else; the message begins with `name`.
    """
    number = _number_or_none(value)
    if number not in (0.0, 1.0):
        raise ResultError(f"{name} is {_shown(value)}, not one boolean; convert it in a wrapper (env.wrappers)")
    return number == 1.0


def _number_or_none(value: Any) -> float | None:
    """Return a real number as a float, None for anything else."""
    if isinstance(value, float):
        return float(value)
    with suppress(Exception):  # of foreign types, which may raise anything
        number = _only_element(value)
        if isinstance(number, numbers.Real):
            return float(number)
    return None


def _only_element(value: Any) -> Any:
    """Return the element of a container that has one, else the value itself."""
    if isinstance(value, (list, tuple)):
        (value,) = value
        return _only_element(value)
    return value.item() if hasattr(value, "item") else value


def _shown(value: Any) -> str:
    """Format a value and its type for a message."""
    return f"{short_repr(value)} ({type(value).__name__})"


# --------------------------------------------------------------------------------------------- observations


def observation_check(space: Space[Any], batch: tuple[int, ...] = (), key: str = "") -> Check:
    """Return a function that converts observations to the shapes and dtypes of a space.

    It returns an observation that fits as it is. Floats are rounded to the dtype of the space. Whole numbers must keep
    their values; those of Discrete, MultiDiscrete and MultiBinary must be in the space. Values outside a Box are
    accepted, since the bounds of many environments are approximate.

    Args:
        space: the space of one environment. Kinds of spaces that have no arrays are not checked.
        batch: leading axes of the observations.
        key: where the space is in a Dict, for messages.
    """
    if isinstance(space, spaces.Dict):
        parts = {name: observation_check(part, batch, f"{key}[{name!r}]") for name, part in space.items()}
        return lambda obs: _check_dict(obs, parts, key)
    if isinstance(space, spaces.Discrete) and not batch:
        return _discrete_check(space, key)
    if isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        return _array_check(space, (*batch, *(space.shape or ())), key)
    return lambda obs: obs


def _check_dict(obs: Any, parts: Mapping[str, Check], key: str) -> Any:
    """Check a Dict observation; return itself if no part changes."""
    if not isinstance(obs, (dict, Mapping)):
        raise ResultError(f"the observation{key} is {_shown(obs)}, not a dict with the keys {[*parts]}")
    checked, changed = {}, False
    for name, check in parts.items():
        if name not in obs:
            raise ResultError(f"the observation{key} has no key {name!r}, which its space has")
        before = obs[name]
        checked[name] = after = check(before)
        changed |= after is not before
    return checked if changed else obs


def _discrete_check(space: spaces.Discrete, key: str) -> Check:
    """Return the check of a whole number."""
    first, stop = int(space.start), int(space.start) + int(space.n)

    def check(obs: Any) -> Any:
        """Check and convert an observation."""
        value = obs if type(obs) is int or type(obs) is np.int64 else _converted(obs, space, (), key)
        if not first <= value < stop:
            raise ResultError(f"the observation{key} is {value}, which isn't in {space}")
        return value

    return check


def _array_check(space: Space[Any], shape: tuple[int, ...], key: str) -> Check:
    """Return the check of an array."""
    dtype, ndarray = space.dtype, np.ndarray
    low, high = _limits(space)

    def check(obs: Any) -> Any:
        """Check and convert an observation."""
        if type(obs) is not ndarray or (obs.dtype is not dtype and obs.dtype != dtype) or obs.shape != shape:
            obs = _converted(obs, space, shape, key)
        if low is not None:
            outside = (obs < low) | (obs > high)
            if outside.any():
                raise ResultError(f"the observation{key} contains {obs[outside][0]}, which isn't in {space}")
        return obs

    return check


def _limits(space: Space[Any]) -> tuple[Any, Any]:
    """Return the least and the greatest value of each element of a space of choices, None for others."""
    if isinstance(space, spaces.Discrete):
        return int(space.start), int(space.start) + int(space.n) - 1
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    return (0, 1) if isinstance(space, spaces.MultiBinary) else (None, None)


def _converted(obs: Any, space: Space[Any], shape: tuple[int, ...], key: str) -> Any:
    """Return an observation in the shape and the dtype of its space.

    Raises:
        ResultError: it isn't an array of numbers, or has another shape, or its values would change.
    """
    dtype = np.dtype(space.dtype)
    try:
        array = np.asarray(obs.detach().cpu() if hasattr(obs, "detach") else obs)
    except Exception as error:  # ragged lists, foreign types
        raise ResultError(f"the observation{key} is {_shown(obs)}, which isn't in {space}") from error
    if array.dtype.kind not in "biuf":
        raise ResultError(f"the observation{key} is {_shown(obs)}, which isn't in {space}")
    if array.size == math.prod(shape) == 1:
        array = array.reshape(shape)
    if array.shape != shape:
        raise ResultError(f"the observation{key} has the shape {array.shape}, which isn't that of {space}")
    with np.errstate(all="ignore"):
        converted = array.astype(dtype)
    if dtype.kind != "f" and (changed := np.asarray(converted != array)).any():
        raise ResultError(
            f"the observation{key} contains {array[changed][0]} ({array.dtype}), which {dtype} can't represent; "
            f"declare a space of another dtype than {space}, or convert it in a wrapper (env.wrappers)"
        )
    return converted if shape else converted[()]


# ---------------------------------------------------------------------------------------------------- infos


def episode_numbers(info: Any, has_statistics: bool = False) -> tuple[tuple[str, float], ...]:
    """Return the finite numbers of an episode's last info by key; a slash joins the levels of nested dicts.

    Other values are ignored, so no info can end a run.

    Args:
        info: the last info.
        has_statistics: a wrapper adds the statistics of each episode; without them the return is NaN, which stands for
            an end that isn't counted, such as a lost life.
    """
    if type(info) is dict and not info and not has_statistics:
        return ()
    found: dict[str, float] = {}
    with suppress(Exception):  # of foreign types, which may raise anything
        _add_numbers(found, info, "", INFO_DEPTH)
    if has_statistics and RETURN not in found:
        return ((RETURN, math.nan),)
    return tuple(found.items())


def split_statistics(pairs: Iterable[tuple[str, float]]) -> tuple[tuple[float, int] | None, dict[str, float]]:
    """Return an episode's own return and length, None without them, and its other numbers.

    The return is NaN at an end that isn't counted.
    """
    numbers = dict(pairs)
    statistics = (numbers[RETURN], int(numbers.get(LENGTH, 0))) if RETURN in numbers else None
    others = {name: number for name, number in numbers.items() if not name.startswith(STATISTICS)}
    return statistics, others if statistics else numbers


def _add_numbers(found: dict[str, float], info: Mapping[Any, Any], prefix: str, depth: int) -> None:
    """Add the finite numbers of an info to `found`."""
    for key, value in info.items():
        if not isinstance(key, (str, int)) or not str(key).isprintable() or key == "":
            continue
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            if depth > 1:
                _add_numbers(found, value, f"{name}/", depth - 1)
            continue
        number = _number_or_none(value)
        if number is not None and math.isfinite(number):
            found[name] = number


def _info_of(infos: Mapping[str, Any], env: int) -> dict[str, Any]:
    """Return the info of one environment from those of a vector, as gymnasium merges them."""
    own: dict[str, Any] = {}
    for key, values in infos.items():
        mask = infos.get(f"_{key}")
        if key.startswith("_") or (mask is not None and not mask[env]):
            continue
        own[key] = _info_of(values, env) if isinstance(values, Mapping) else values[env]
    return own


# --------------------------------------------------------------------------------------------------- vectors


class CheckedSyncVectorEnv(SyncVectorEnv):
    """Vector of `SnapshotEnv`s in this process, without gymnasium's copies of checked results and merges of infos.

    Each step overwrites the observations of the previous one. An environment resets in the step after its episode's
    end.
    """

    def __init__(self, makers: Sequence[Callable[[], gymnasium.Env[Any, Any]]]) -> None:
        """Store the arguments."""
        super().__init__(makers, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)
        self._joined: Any = create_empty_array(self.single_observation_space, self.num_envs)
        self._ended = [False] * self.num_envs

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset all environments with the seeds of a list, or with consecutive ones from a number on."""
        seeds = [None] * self.num_envs if seed is None else seed
        seeds = range(seeds, seeds + self.num_envs) if isinstance(seeds, int) else seeds
        self._ended = [False] * self.num_envs
        observations = [env.reset(seed=own, options=options)[0] for env, own in zip(self.envs, seeds, strict=True)]
        return self._join(observations), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all environments."""
        results = [
            (*env.reset()[:1], 0.0, False, False, {}) if ended else env.step(action)
            for env, ended, action in zip(self.envs, self._ended, actions, strict=True)
        ]
        observations, rewards, terminated, truncated, infos = zip(*results, strict=True)
        self._ended = [one or other for one, other in zip(terminated, truncated, strict=True)]
        episodes = {EPISODE: [info.get(EPISODE) for info in infos]} if any(infos) else {}
        return self._join(observations), np.array(rewards), np.array(terminated), np.array(truncated), episodes

    def _join(self, observations: Sequence[Any]) -> Any:
        """Return the observations as one batch."""
        if isinstance(self._joined, np.ndarray):
            for number, obs in enumerate(observations):  # faster than np.stack
                self._joined[number] = obs
        else:
            self._joined = concatenate(self.single_observation_space, observations, self._joined)
        return self._joined


class CheckedVectorEnv(gymnasium.vector.VectorWrapper):
    """Outermost wrapper of a native vector: checks its results, and reduces infos to the numbers of episodes."""

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        """Store the arguments."""
        super().__init__(env)
        self._check = observation_check(env.single_observation_space, (env.num_envs,))
        self._counts = getattr(env, "counts_episodes", False)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset all environments."""
        obs, _ = self.env.reset(seed=seed, options=options)
        return self._check(obs), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all environments."""
        obs, reward, terminated, truncated, infos = self.env.step(actions)
        reward = self._each(reward, "the reward", "biuf", to_number)
        terminated = self._each(terminated, "terminated", "b", to_flag)
        truncated = self._each(truncated, "truncated", "b", to_flag)
        ended = terminated | truncated
        return self._check(obs), reward, terminated, truncated, self._episodes(infos, ended) if ended.any() else {}

    def _each(self, values: Any, name: str, kinds: str, convert: Callable[[Any, str], Any]) -> Any:
        """Return one value per environment, `[B]`; an array of one of the kinds stays as it is."""
        if type(values) is np.ndarray and values.shape == (self.num_envs,) and values.dtype.kind in kinds:
            return values
        if np.shape(values)[:1] != (self.num_envs,):
            raise ResultError(
                f"{name} is {_shown(values)}, not one value for each of {counted(self.num_envs, 'environment')}"
            )
        return np.array([convert(value, name) for value in values])

    def _episodes(self, infos: Any, ended: Any) -> dict[str, Any]:
        """Return the numbers of the episodes that ended, by environment."""
        found: list[Any] = [None] * self.num_envs
        for env in np.flatnonzero(ended):
            with suppress(Exception):  # of foreign types, which may raise anything
                found[env] = episode_numbers(_info_of(infos, int(env)), self._counts)
        return {EPISODE: found}
