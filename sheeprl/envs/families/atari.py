"""Atari games of ale-py: `ALE/Pong-v5`, with the standard preprocessing by `env.wrappers=[atari]`."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

from sheeprl.envs.config import EnvConfig
from sheeprl.envs.families.base import Family

PREPROCESSING = "atari"
"""Name of the wrapper, `sheeprl.envs.wrappers.atari`."""
NATIVE = {
    "noop_max": "noop_max",
    "frame_skip": "frameskip",
    "grayscale": "grayscale",
    "frame_stack": "stack_num",
    "fire_reset": "use_fire_reset",
}
"""Argument of the wrapper -> argument of ale-py's vector environment."""


class Atari(Family):
    """Games of the Arcade Learning Environment."""

    prefixes = ("ALE/",)
    package = "ale_py"
    extra = "atari"

    def register(self) -> None:
        """Register the games."""
        gymnasium.register_envs(importlib.import_module("ale_py"))

    def arguments(self, config: EnvConfig) -> dict[str, Any]:
        """Return the arguments of a game; one with the preprocessing shows every frame, which the wrapper reads."""
        arguments = super().arguments(config)
        if _preprocessing(config) is not None:
            arguments = {"frameskip": 1, "obs_type": "ram"} | arguments
        return arguments

    def make_vector(self, config: EnvConfig) -> VectorEnv[Any, Any, Any]:
        """Make ale-py's vector environment; `env.wrappers=[atari]` is translated into its arguments.

        Raises:
            ValueError: there are other wrappers, or an argument that the vector environment doesn't have.
        """
        given = _preprocessing(config)
        if given is None or len(config.wrappers) > 1:
            return super().make_vector(config)
        from sheeprl.envs.wrappers.atari import atari

        own = {name: part.default for name, part in inspect.signature(atari).parameters.items() if name != "env"}
        if unknown := given.keys() - own.keys():
            raise ValueError(f"env.wrappers=atari: has no argument {min(unknown)!r}; use {', '.join(own)}")
        values = own | given
        if values["life_loss"]:
            raise ValueError(
                "env.wrappers=atari: with life_loss=true, ale-py's vector environment begins a new game after each "
                "life; use env.vectorization=sync or async"
            )
        if values["frame_stack"] < 2:
            raise ValueError("env.wrappers=atari: frame_stack must be at least 2 with env.vectorization=native")
        arguments = {native: values[name] for name, native in NATIVE.items()}
        arguments |= {"img_height": values["screen_size"], "img_width": values["screen_size"]}
        arguments |= {"reward_clipping": False}  # the statistics need the true rewards
        arguments |= Family.arguments(self, config)
        if config.max_episode_steps is not None:
            arguments["max_num_frames_per_episode"] = config.max_episode_steps
        envs = gymnasium.make_vec(config.id, config.num_envs, vectorization_mode="vector_entry_point", **arguments)
        return AtariVector(envs, values["clip_reward"])


def _preprocessing(config: EnvConfig) -> dict[str, Any] | None:
    """Return the arguments of the preprocessing; None without it."""
    for path, arguments in config.wrapper_calls:
        if path == PREPROCESSING:
            return arguments
    return None


class AtariVector(VectorWrapper):
    """ale-py's vector environment with the statistics of games and, if wanted, with clipped rewards.

    Args:
        envs: the vector environment, which doesn't clip rewards.
        clip_reward: return the signs of the rewards.
    """

    counts_episodes = True

    def __init__(self, envs: VectorEnv[Any, Any, Any], clip_reward: bool) -> None:
        """Start before the first games."""
        super().__init__(envs)
        self.clip_reward = clip_reward
        self._returns, self._lengths = np.zeros(envs.num_envs), np.zeros(envs.num_envs, np.int64)
        self._ended = np.zeros(envs.num_envs, np.bool_)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin all games."""
        for array in (self._returns, self._lengths, self._ended):
            array[...] = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all games; an environment that ended is reset in this step, whose reward is 0."""
        obs, reward, terminated, truncated, infos = self.env.step(actions)
        infos = {name: values for name, values in infos.items() if name != "env_id"}
        reward = np.asarray(reward, np.float64)
        self._returns += reward
        self._lengths += ~self._ended
        self._ended = terminated | truncated
        is_over = self._ended.copy()
        if is_over.any():
            statistics = {"r": self._returns.copy(), "l": self._lengths.copy(), "_r": is_over, "_l": is_over}
            infos = {**infos, "episode": statistics, "_episode": is_over}
            self._returns[is_over] = 0.0
            self._lengths[is_over] = 0
        return obs, np.sign(reward) if self.clip_reward else reward, terminated, truncated, infos
