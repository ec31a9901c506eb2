"""Look for mistakes and oddities in the results of an environment, before they are checked and converted."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from sheeprl.envs import transforms
from sheeprl.envs.interface import RESET, STEP
from sheeprl.envs.snapshot_check import is_same
from sheeprl.envs.transforms import ACTION_MASK
from sheeprl.utils.errors import short_repr

Array = npt.NDArray[Any]

CLOSE_LOOKS = 300  # results of reset and step that are compared with their spaces and with each other
MIN_STEPS = 5  # steps of each measurement, however slow they are


class ResultRecorder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Wrapper that looks at the results of an environment before they are checked and converted.

    Attributes:
        mistakes: results that prevent training.
        oddities: other odd results, by kind.
        infos: keys of the last infos of episodes.
        found_reward: a reward differed from 0.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        """Store the spaces as they are now."""
        super().__init__(env)
        self.mistakes: list[str] = []
        self.oddities: dict[str, str] = {}
        self.infos: dict[str, None] = {}
        self.found_reward = False
        self._looks = 0
        self._before: tuple[Any, Any] | None = None  # the last observation and its copy
        self._is_constant = True
        self._leaves = transforms.flat_spaces(env.observation_space)
        self._spaces = {"observation": copy.deepcopy(env.observation_space), "action": copy.deepcopy(env.action_space)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        result = self.env.reset(seed=seed, options=options)
        if isinstance(result, tuple) and len(result) == len(RESET):
            self._look(result[0], result[1])
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step."""
        result = self.env.step(action)
        if isinstance(result, tuple) and len(result) == len(STEP):
            obs, reward, terminated, truncated, info = result
            self._look(obs, info)
            self._look_at_reward(reward)
            if isinstance(info, Mapping) and np.any(terminated) | np.any(truncated):
                self.infos |= dict.fromkeys(str(key) for key in info)
        return result

    @property
    def is_constant(self) -> bool:
        """Return True if all observations so far are equal, and there are some."""
        return self._is_constant and self._looks > MIN_STEPS

    def _look(self, obs: Any, info: Any) -> None:
        """Look at an observation and an info."""
        if not isinstance(info, Mapping):
            self._note("info", f"the info is {short_repr(info)} ({type(info).__name__}), not a dict; metrics ignore it")
        leaves = transforms.flat_observations(obs)
        for key, values in leaves.items():
            array = values if isinstance(values, np.ndarray) else np.asarray(values)
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                bad = array[~np.isfinite(array)].flat[0]
                self.mistakes.append(f"the observation{_place(key)} contains {bad}; networks need finite numbers")
        self._looks += 1
        if self._looks <= CLOSE_LOOKS:
            for key, values in leaves.items():
                self._look_at_leaf(key, np.asarray(values))
            self._compare_with_last(obs)
            self._look_at_spaces()

    def _look_at_leaf(self, key: str, values: Array) -> None:
        """Compare a part of an observation with its space."""
        space = self._leaves.get(key)
        if not isinstance(space, gymnasium.spaces.Box) or values.shape != space.shape:
            return  # the check of results refuses what doesn't fit
        place = f"the observation{_place(key)}"
        if values.dtype != space.dtype:
            self._note(f"dtype {key}", f"{place} is {values.dtype}, but its space is {space.dtype}; each is converted")
        outside = (values < space.low) | (values > space.high)
        if outside.any():
            self._note(f"bounds {key}", f"{place} contains {values[outside].flat[0]}, which is outside {space}")

    def _look_at_reward(self, reward: Any) -> None:
        """Look at a reward."""
        if not isinstance(reward, (int, float, np.integer, np.floating)) and np.size(reward) == 1:
            self._note(
                "reward",
                f"the reward is {short_repr(reward)} ({type(reward).__name__}), not a float; it is converted",
            )
        with np.errstate(all="ignore"):
            try:
                number = float(np.asarray(reward).reshape(-1)[0])
            except Exception:  # the check of results refuses it
                return
        if not math.isfinite(number):
            self.mistakes.append(f"the reward is {number}; training needs finite numbers")
        self.found_reward |= number != 0.0

    def _compare_with_last(self, obs: Any) -> None:
        """Look for observations that change after they were returned, and for those that never change."""
        if self._before is not None:
            last, as_returned = self._before
            if not is_same(last, as_returned):
                self._note(
                    "alias",
                    "each step changes the observation that the previous one returned; training copies them, but "
                    "wrappers that store observations need a copy (return obs.copy())",
                )
            self._is_constant = self._is_constant and is_same(obs, as_returned)
        self._before = obs, copy.deepcopy(obs)

    def _look_at_spaces(self) -> None:
        """Compare the spaces with those at the start."""
        for name, before in self._spaces.items():
            now = getattr(self.env, f"{name}_space")
            if now != before:
                self.mistakes.append(
                    f"the {name} space changes from {short_repr(before)} to {short_repr(now)}; one policy needs the "
                    "same one in every step" + (f"; use an action mask ({ACTION_MASK})" if name == "action" else "")
                )

    def _note(self, kind: str, line: str) -> None:
        """Note an oddity once."""
        self.oddities.setdefault(kind, line)


def _place(key: str) -> str:
    """Return the keys of a part of an observation in brackets, from its flat key."""
    return "".join(f"[{name!r}]" for name in key.split("/")[1:])
