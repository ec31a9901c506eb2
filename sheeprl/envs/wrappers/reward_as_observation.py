"""Add the last reward to the observation."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from sheeprl.envs.wrappers.keys import as_dict, dict_space, require_new_key


class RewardAsObservation(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Return a Dict observation with the last reward as a vector of one element; 0 after a reset.

    An observation that isn't a Dict becomes its key `obs`.

    Args:
        env: the environment.
        key: key of the reward.

    Raises:
        ValueError: the observation has this key already.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], key: str = "reward") -> None:
        """Add the key to the space."""
        super().__init__(env)
        require_new_key(key, env.observation_space)
        self.key = key
        reward = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.observation_space = spaces.Dict({**dict_space(env.observation_space).spaces, key: reward})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self._with_reward(obs, 0.0), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._with_reward(obs, reward), reward, terminated, truncated, info

    def _with_reward(self, obs: Any, reward: Any) -> dict[str, Any]:
        """Return the observation with the reward."""
        return {**as_dict(obs, self.env.observation_space), self.key: np.array([reward], np.float32).reshape(1)}
