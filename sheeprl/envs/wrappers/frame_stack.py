"""Stack the newest observations along a new first axis."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation, RecordVideo, TimeLimit

from sheeprl.envs.wrappers.clip_reward import ClipReward
from sheeprl.envs.wrappers.episode_statistics import EpisodeStatistics
from sheeprl.envs.wrappers.keys import chosen_keys

TRANSPARENT = (ClipReward, EpisodeStatistics, RecordVideo, TimeLimit)
"""Wrappers that return the observations of the environment inside unchanged."""


def frame_stack_of(env: gymnasium.Env[Any, Any]) -> dict[str, int]:
    """Return by flat key the frames of the stacked observations, if the newest frames suffice to restore the stacks.

    That is so if the outermost wrapper that changes observations stacks consecutive ones and begins an episode with
    copies of its first observation.
    """
    while isinstance(env, TRANSPARENT):
        env = env.env
    if isinstance(env, FrameStack) and env.dilation == 1:
        return dict.fromkeys([f"obs/{key}" for key in env.keys] or ["obs"], env.stack_size)
    if isinstance(env, FrameStackObservation) and env.padding_type == "reset":
        return {"obs": env.stack_size} if isinstance(env.observation_space, spaces.Box) else {}
    return {}


class FrameStack(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Return the newest `stack_size` observations as one array `[stack_size, *]`, the oldest first.

    With `dilation` d, every d-th observation belongs to the stack, always including the newest one. After a reset the
    stack holds the first observation only.

    Args:
        env: an environment with Box observations, or a Dict of such.
        stack_size: observations in a stack.
        dilation: steps between two observations of a stack.
        keys: keys of a Dict observation to stack; None for the pictures, or for every Box if there is no picture.

    Raises:
        ValueError: an argument is less than 1, or a key doesn't exist or isn't a Box.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        stack_size: int = 4,
        dilation: int = 1,
        keys: Sequence[str] | None = None,
    ) -> None:
        """Compute the stacked space."""
        super().__init__(env)
        if stack_size < 1 or dilation < 1:
            raise ValueError(f"stack_size={stack_size}, dilation={dilation}: must be at least 1")
        self.stack_size, self.dilation = stack_size, dilation
        self.keys = chosen_keys(env.observation_space, keys)
        space = env.observation_space
        if isinstance(space, spaces.Dict):
            parts = {name: self._stacked(part) if name in self.keys else part for name, part in space.items()}
            self.observation_space = spaces.Dict(parts)
        else:
            self.observation_space = self._stacked(space)
        self._frames: deque[Any] = deque(maxlen=(stack_size - 1) * dilation + 1)

    def _stacked(self, space: Any) -> spaces.Box:
        """Return the space of a stack of a Box's observations."""
        low, high = (np.stack([bound] * self.stack_size) for bound in (space.low, space.high))
        return spaces.Box(low, high, dtype=space.dtype.type)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode with a stack of its first observation."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._frames.clear()
        self._frames.extend([self._parts(obs)] * (self._frames.maxlen or 1))
        return self._observation(obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step and drop the oldest observation."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._frames.append(self._parts(obs))
        return self._observation(obs), reward, terminated, truncated, info

    def _parts(self, obs: Any) -> tuple[Any, ...]:
        """Return copies of the stacked parts, since an environment may reuse its arrays."""
        parts = [obs[name] for name in self.keys] if self.keys else [obs]
        return tuple(np.array(part) for part in parts)

    def _observation(self, obs: Any) -> Any:
        """Return the observation with the stacks."""
        frames = list(self._frames)[:: self.dilation]
        stacks = [np.stack(parts) for parts in zip(*frames, strict=True)]
        return {**obs, **dict(zip(self.keys, stacks, strict=True))} if self.keys else stacks[0]
