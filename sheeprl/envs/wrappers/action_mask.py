"""Move the action mask from the info into the observation."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from sheeprl.envs.wrappers.keys import as_dict, dict_space, require_new_key

KEY = "action_mask"
"""Key of the mask in the observation, where policies look for it."""


class ActionMask(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Return a Dict observation with `info["action_mask"]` as its key `action_mask`.

    The mask has one element per choice of a Discrete action; for MultiDiscrete actions, the choices of all parts in
    order. 1 allows a choice. An observation that isn't a Dict becomes its key `obs`.

    Args:
        env: an environment with Discrete or MultiDiscrete actions.
        key: key of the mask in the info.

    Raises:
        ValueError: the actions are of another kind, or the observation has a mask already.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], key: str = "action_mask") -> None:
        """Add the mask to the space."""
        super().__init__(env)
        require_new_key(KEY, env.observation_space)
        actions = env.action_space
        if isinstance(actions, spaces.Discrete):
            self.size = int(actions.n)
        elif isinstance(actions, spaces.MultiDiscrete):
            self.size = int(actions.nvec.sum())
        else:
            raise ValueError(f"the actions are a {type(actions).__name__}; a mask needs Discrete or MultiDiscrete ones")
        self.key = key
        mask = spaces.MultiBinary(self.size)
        self.observation_space = spaces.Dict({**dict_space(env.observation_space).spaces, KEY: mask})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self._with_mask(obs, info), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._with_mask(obs, info), reward, terminated, truncated, info

    def _with_mask(self, obs: Any, info: dict[str, Any]) -> dict[str, Any]:
        """Return the observation with the mask.

        Raises:
            ValueError: the info has no mask, or one of another length.
        """
        if self.key not in info:
            raise ValueError(f"the info has no {self.key!r}; its keys are {list(info)}")
        mask = info[self.key]
        parts = mask if isinstance(mask, tuple) else (mask,)  # gymnasium's masks of MultiDiscrete are tuples
        flat = np.concatenate([np.asarray(part).reshape(-1) for part in parts])
        if flat.shape != (self.size,):
            raise ValueError(f"info[{self.key!r}] has {flat.size} elements; the actions have {self.size} choices")
        return {**as_dict(obs, self.env.observation_space), KEY: (flat != 0).astype(np.int8)}
