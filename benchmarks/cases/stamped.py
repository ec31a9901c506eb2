"""Environments with stamped observations, which show if a buffer has lost or duplicated rows.

Importing this module registers them: `benchmarks.cases.stamped:StampedPendulum-v0`. Each observation ends with a stamp:
48 random bits drawn when the environment was made, and the number of earlier observations. The stamp is scaled down so
far that it doesn't affect a network, but a float32 represents it exactly.
"""

from __future__ import annotations

import time
import uuid
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
import numpy.typing as npt

BITS = 24  # of a float32's mantissa
NONCES = 2  # parts of the random number
WIDTH = NONCES + 1
SCALE = 2.0**-40

Array = npt.NDArray[Any]


class Stamp(gymnasium.Wrapper[Array, Any, Array, Any]):
    """Adds a stamp to each observation, and sleeps in each step.

    Args:
        env: environment with one-dimensional observations.
        sleep: seconds per step.
    """

    def __init__(self, env: gymnasium.Env[Array, Any], sleep: float = 0.0) -> None:
        """Draw the random bits and extend the observation space."""
        super().__init__(env)
        own = env.observation_space
        assert isinstance(own, gymnasium.spaces.Box)
        room = np.full(WIDTH, SCALE * 2**BITS, np.float32)
        low, high = np.concatenate([own.low, 0 * room]), np.concatenate([own.high, room])
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        self.sleep = sleep
        bits = uuid.uuid4().int
        self.nonce = [(bits >> BITS * part) % 2**BITS for part in range(NONCES)]
        self.shown = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Reset the environment and stamp the observation."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self._stamped(obs), info

    def step(self, action: Any) -> tuple[Array, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment and stamp the observation."""
        time.sleep(self.sleep)
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._stamped(obs), reward, terminated, truncated, info

    def _stamped(self, obs: Array) -> Array:
        """Return the observation with the next stamp."""
        stamp = np.array([*self.nonce, self.shown], np.float64) * SCALE
        self.shown += 1
        return np.concatenate([obs, stamp]).astype(np.float32)


def read_stamps(obs: Array) -> tuple[Array, Array]:
    """Return the stamps of observations `[N, *]`: `[N]` nonces of the environments and `[N]` counts."""
    parts = np.rint(obs[:, -WIDTH:].astype(np.float64) / SCALE).astype(np.int64)
    nonce = parts[:, 0]
    for part in range(1, NONCES):
        nonce = nonce | parts[:, part] << BITS * part
    return nonce, parts[:, -1]


def _make(env_id: str, sleep: float = 0.0, **arguments: Any) -> Stamp:
    """Make a stamped environment."""
    return Stamp(gymnasium.make(env_id, **arguments), sleep)


def pendulum(sleep: float = 0.0, **arguments: Any) -> Stamp:
    """Make a stamped Pendulum-v1."""
    return _make("Pendulum-v1", sleep, **arguments)


def cartpole(sleep: float = 0.0, **arguments: Any) -> Stamp:
    """Make a stamped CartPole-v1."""
    return _make("CartPole-v1", sleep, **arguments)


gymnasium.register("StampedPendulum-v0", "benchmarks.cases.stamped:pendulum")
gymnasium.register("StampedCartPole-v0", "benchmarks.cases.stamped:cartpole")
