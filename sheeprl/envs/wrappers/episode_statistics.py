"""Returns and lengths of the episodes of an environment, below wrappers that change rewards or ends."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.wrappers import RecordEpisodeStatistics


class EpisodeStatistics(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Add `info["episode"] = {"r": return, "l": length}` to the last info of each episode.

    Metrics and evaluations show these numbers instead of the sums of the rewards that the agent receives. An end
    without them, such as a lost life that another wrapper reports as an end, isn't counted as an episode.

    gymnasium's `RecordEpisodeStatistics` has the same effect; this one measures no time, so it is deterministic.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        """Start before the first episode."""
        super().__init__(env)
        self.episode_return, self.episode_length = 0.0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self.episode_return, self.episode_length = 0.0, 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step and add its reward."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.episode_return += float(reward)
        self.episode_length += 1
        if terminated or truncated:
            info = {**info, "episode": {"r": self.episode_return, "l": self.episode_length}}
        return obs, reward, terminated, truncated, info


def running_return(env: gymnasium.Env[Any, Any], default: float) -> float:
    """Return the return of the open episode as `EpisodeStatistics` counts it; `default` without this wrapper."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, EpisodeStatistics):
            return env.episode_return
        env = env.env
    return default


def counts_episodes(env: gymnasium.Env[Any, Any]) -> bool:
    """Return True if one of the environment's wrappers adds the statistics of episodes."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, (EpisodeStatistics, RecordEpisodeStatistics)):
            return True
        env = env.env
    return False
