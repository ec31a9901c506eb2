"""Random actions of an environment, which respect action masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from sheeprl.envs import transforms
from sheeprl.envs.results import ResultError
from sheeprl.envs.transforms import ACTION_MASK
from sheeprl.utils.errors import short_repr

Array = npt.NDArray[Any]


class RandomActions:
    """Source of random actions of an environment, which respects action masks.

    Args:
        space: one environment's action space.
        seed: seed of the actions.
    """

    def __init__(self, space: gymnasium.Space[Any], seed: int) -> None:
        """Seed the generators."""
        self._space = transforms.action_space(space)
        self._space.seed(seed)
        self._generator = np.random.default_rng(seed)
        self._choices = transforms.action_choices(self._space)
        self._to_env = transforms.ActionTransform(space)

    def draw(self, obs: Any) -> Any:
        """Return an action for one observation.

        Raises:
            ResultError: the observation's mask permits no choice of a component.
        """
        mask = obs.get(ACTION_MASK) if isinstance(obs, Mapping) else None
        action = self._space.sample() if mask is None else self._permitted(np.asarray(mask))
        return self._to_env(np.asarray(action)[None])[0]

    def draw_batch(self, obs: Any, count: int) -> Array:
        """Return actions `[B, *]` for the observations of `count` environments."""
        masks = obs.get(ACTION_MASK) if isinstance(obs, Mapping) else None
        each: list[Any] = [None] * count if masks is None else [{ACTION_MASK: mask} for mask in masks]
        return np.stack([self.draw(one) for one in each])

    def _permitted(self, mask: Array) -> Any:
        """Return a random permitted choice of each component."""
        chosen = []
        for part in np.split(mask, np.cumsum(self._choices)[:-1]):
            permitted = np.flatnonzero(part)
            if not permitted.size:
                raise ResultError(f"the observation[{ACTION_MASK!r}] permits no choice: {short_repr(mask.tolist())}")
            chosen.append(int(self._generator.choice(permitted)))
        return chosen[0] if isinstance(self._space, gymnasium.spaces.Discrete) else np.array(chosen, self._space.dtype)
