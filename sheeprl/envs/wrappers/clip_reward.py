"""Clip rewards to their sign or to an interval."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from sheeprl.envs.wrappers.episode_statistics import EpisodeStatistics, counts_episodes


class ClipReward(gymnasium.RewardWrapper[Any, Any]):
    """Train on clipped rewards; returns in metrics and evaluations stay those of the environment.

    Args:
        env: the environment.
        low: least reward.
        high: greatest reward; without both bounds a reward becomes its sign.

    Raises:
        ValueError: `low` exceeds `high`.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], low: float | None = None, high: float | None = None) -> None:
        """Store the bounds."""
        super().__init__(env if counts_episodes(env) else EpisodeStatistics(env))
        if low is not None and high is not None and low > high:
            raise ValueError(f"low={low} exceeds high={high}")
        self.low, self.high = low, high

    def reward(self, reward: Any) -> float:
        """Return the clipped reward."""
        if self.low is None and self.high is None:
            return float(np.sign(reward))
        return float(np.clip(reward, self.low, self.high))
