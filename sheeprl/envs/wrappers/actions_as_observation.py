"""Add the last actions to the observation."""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium
import numpy as np
from gymnasium import Space, spaces

from sheeprl.envs.wrappers.keys import as_dict, dict_space, require_new_key


class ActionsAsObservation(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Return a Dict observation with the last `num_actions` actions as one vector, the oldest first.

    A discrete action is one-hot encoded. After a reset every element is 0, unless `noop` names an action. An
    observation that isn't a Dict becomes its key `obs`.

    Args:
        env: an environment with Discrete, MultiDiscrete, MultiBinary or Box actions.
        num_actions: actions in the observation.
        dilation: steps between two of these actions.
        noop: action that stands for the steps before a reset; None for zeros.
        key: key of the actions.

    Raises:
        ValueError: a number is less than 1, the kind of the actions isn't supported, or the key exists already.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        num_actions: int = 1,
        dilation: int = 1,
        noop: Any = None,
        key: str = "actions",
    ) -> None:
        """Add the key to the space."""
        super().__init__(env)
        if num_actions < 1 or dilation < 1:
            raise ValueError(f"num_actions={num_actions}, dilation={dilation}: must be at least 1")
        require_new_key(key, env.observation_space)
        self.num_actions, self.dilation, self.key = num_actions, dilation, key
        low, high = _bounds(env.action_space)
        self._blank = np.zeros(len(low), np.float32) if noop is None else self._encode(noop)
        space = spaces.Box(np.tile(low, num_actions), np.tile(high, num_actions), dtype=np.float32)
        self.observation_space = spaces.Dict({**dict_space(env.observation_space).spaces, key: space})
        self._actions: deque[Any] = deque(maxlen=(num_actions - 1) * dilation + 1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode without actions."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._actions.clear()
        self._actions.extend([self._blank] * (self._actions.maxlen or 1))
        return self._with_actions(obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step and add its action."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._actions.append(self._encode(action))
        return self._with_actions(obs), reward, terminated, truncated, info

    def _with_actions(self, obs: Any) -> dict[str, Any]:
        """Return the observation with the actions."""
        actions = np.concatenate(list(self._actions)[:: self.dilation])
        return {**as_dict(obs, self.env.observation_space), self.key: actions}

    def _encode(self, action: Any) -> Any:
        """Return an action as a float32 vector."""
        space = self.env.action_space
        if isinstance(space, spaces.Discrete):
            return _one_hot(np.array([int(action) - int(space.start)]), [int(space.n)])
        if isinstance(space, spaces.MultiDiscrete):
            return _one_hot((np.asarray(action) - space.start).reshape(-1), space.nvec.reshape(-1).tolist())
        return np.array(action, np.float32).reshape(-1)


def _one_hot(choices: Any, sizes: list[int]) -> Any:
    """Return the concatenated one-hot vectors of several choices."""
    encoded = np.zeros(sum(sizes), np.float32)
    encoded[choices + np.cumsum([0, *sizes[:-1]])] = 1.0
    return encoded


def _bounds(space: Space[Any]) -> tuple[Any, Any]:
    """Return the bounds of an encoded action.

    Raises:
        ValueError: an unsupported kind of action space.
    """
    if isinstance(space, spaces.Box):
        return space.low.reshape(-1).astype(np.float32), space.high.reshape(-1).astype(np.float32)
    if isinstance(space, spaces.Discrete):
        size = int(space.n)
    elif isinstance(space, spaces.MultiDiscrete):
        size = int(space.nvec.sum())
    elif isinstance(space, spaces.MultiBinary):
        size = int(np.prod(space.shape))
    else:
        raise ValueError(f"the actions are a {type(space).__name__}; use Discrete, MultiDiscrete, MultiBinary or Box")
    return np.zeros(size, np.float32), np.ones(size, np.float32)
