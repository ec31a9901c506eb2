"""Environments whose state is captured and restored as plain data (see `capture`)."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any

import gymnasium

from sheeprl.envs import changes, global_rng, interface, transforms
from sheeprl.envs.capture import Plain, capture, restore
from sheeprl.envs.results import EPISODE, episode_numbers, observation_check, to_flag, to_number
from sheeprl.envs.wrappers.episode_statistics import counts_episodes


def close_quietly(env: gymnasium.Env[Any, Any] | gymnasium.vector.VectorEnv[Any, Any, Any]) -> None:
    """Close an environment that isn't needed any more; its errors don't matter then."""
    with suppress(Exception, SystemExit):
        env.close()


def close_vector(envs: gymnasium.vector.VectorEnv[Any, Any, Any]) -> None:
    """Close a vector environment, ignore its errors, and kill worker processes that don't respond."""
    if not isinstance(envs, gymnasium.vector.AsyncVectorEnv):
        close_quietly(envs)
        return
    try:
        envs.close(terminate=True)
    except Exception:  # a worker process doesn't respond
        for process in envs.processes:
            process.kill()
        envs.closed = True


class SnapshotEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Outermost wrapper of each environment in a vector, with its state as the attribute `snapshot`.

    It checks all results and converts them to Python's numbers and the dtypes of the spaces (`results`). Infos are
    reduced to the numbers in the last one of an episode, so that those of different environments fit each other.

    A vector environment resets an environment in the step after the episode's end. It stores that flag outside the
    environment, so a snapshot doesn't hold it. An environment restored at an episode's end therefore resets itself.

    Attributes:
        alone: the environment is the only one in its process, so its snapshot includes the process's generators.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        """Wrap an environment."""
        super().__init__(env)
        self.observation_space = transforms.without_bounds(env.observation_space)  # bounds may differ per instance
        self.ended = self.resets_itself = self.alone = False
        self._has_reset = self._has_stepped = False
        self._check = observation_check(env.observation_space)
        self._counts = counts_episodes(env)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self.ended = self.resets_itself = False
        if self.alone and seed is not None:
            global_rng.seed_all(seed)
        if self._has_reset:
            obs, _ = self.env.reset(seed=seed, options=options)
        else:
            obs, _ = self._first_reset(seed, options)
        return self._check(obs), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take a step."""
        if self.resets_itself:
            obs, info = self.reset()
            return obs, 0.0, False, False, info
        step = self.env.step if self._has_stepped else self._first_step
        obs, reward, terminated, truncated, info = step(action)
        if type(reward) is not float:
            reward = to_number(reward, "the reward")
        if terminated is not False:
            terminated = to_flag(terminated, "terminated")
        if truncated is not False:
            truncated = to_flag(truncated, "truncated")
        self.ended = terminated or truncated
        numbers = episode_numbers(info, self._counts) if self.ended else ()
        return self._check(obs), reward, terminated, truncated, {EPISODE: numbers} if numbers else {}

    def set_attributes(self, values: dict[str, Any]) -> None:
        """Set attributes of the environment or of its wrappers."""
        changes.set_attributes(self.env, values)

    def close(self) -> None:
        """Close the environment; ignore its errors."""
        close_quietly(self.env)

    def _first_reset(self, seed: int | None, options: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
        """Reset for the first time; if this fails because of a wrong result, name the result.

        Raises:
            InterfaceError: the environment or a wrapper returns a wrong result.
        """
        try:
            obs, info = self.env.reset(seed=seed, options=options)
        except interface.CAUSED as error:
            if problem := interface.wrong_result(self.env, seed):
                raise interface.InterfaceError(problem) from error
            raise
        if not isinstance(info, dict):  # an observation of two numbers looks like an observation and its info
            if problem := interface.wrong_result(self.env, seed):
                raise interface.InterfaceError(problem)
            obs, info = self.env.reset(seed=seed, options=options)
        self._has_reset = True
        return obs, info

    def _first_step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take the first step; if this fails because of a wrong result, name the result.

        Raises:
            InterfaceError: the environment or a wrapper returns a wrong result.
        """
        try:
            obs, reward, terminated, truncated, info = self.env.step(action)
        except interface.CAUSED as error:
            if problem := interface.wrong_result(self.env, None, action):
                raise interface.InterfaceError(problem) from error
            raise
        self._has_stepped = True
        return obs, reward, terminated, truncated, info

    @property
    def snapshot(self) -> Plain:
        """State of the environment as plain data."""
        own = global_rng.capture() if self.alone else None
        return {"ended": self.ended, "env": capture(self.env), "generators": own}

    @snapshot.setter
    def snapshot(self, state: Plain) -> None:
        """Restore the environment and, if it is alone, the process's generators."""
        restore(self.env, state["env"])
        if self.alone and state["generators"] is not None:
            global_rng.restore(state["generators"])
        self.ended = self.resets_itself = bool(state["ended"])

    def take_snapshot(self) -> Plain:
        """Return `snapshot`. A vector environment reads an attribute of this name twice, but calls a method once."""
        return self.snapshot


class VectorState:
    """Adapter that gives a native vector environment the interface of `SnapshotEnv`."""

    def __init__(self, envs: gymnasium.vector.VectorEnv[Any, Any, Any]) -> None:
        """Store the vector environment."""
        self.envs = envs
        self.ended = self.resets_itself = False

    def reset(self, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset all environments."""
        return self.envs.reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, ...]:
        """Step all environments and copy the results."""
        return tuple(copy.deepcopy(part) for part in self.envs.step(action))

    @property
    def snapshot(self) -> Plain:
        """State of the environment as plain data."""
        return capture(self.envs)

    @snapshot.setter
    def snapshot(self, state: Plain) -> None:
        """Restore the environments."""
        restore(self.envs, state)

    def close(self) -> None:
        """Close the environments."""
        close_quietly(self.envs)
