"""Hide the velocities in an observation, so that only a policy with memory can control the environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

VELOCITIES = {
    "CartPole": (1, 3),
    "MountainCar": (1,),
    "MountainCarContinuous": (1,),
    "Pendulum": (2,),
    "Acrobot": (4, 5),
    "LunarLander": (2, 3, 5),
    "LunarLanderContinuous": (2, 3, 5),
}
"""Indices of the velocities by the name of the environment."""


class MaskVelocities(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Set elements of a vector observation to zero.

    Args:
        env: an environment with a Box observation of one axis.
        indices: the elements; None for the velocities of a known environment (`VELOCITIES`).

    Raises:
        ValueError: the observation isn't a vector, an index is outside of it, or the velocities aren't known.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], indices: Sequence[int] | None = None) -> None:
        """Build the mask."""
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"the observation is a {space}, not a vector")
        if indices is None:
            name = env.spec.name if env.spec is not None else ""
            if name not in VELOCITIES:
                raise ValueError(f"the velocities of {name or 'this environment'} aren't known; set indices=[…]")
            indices = VELOCITIES[name]
        if any(not 0 <= index < space.shape[0] for index in indices):
            raise ValueError(f"indices={list(indices)}: the observation has {space.shape[0]} elements")
        self.hidden = np.isin(np.arange(space.shape[0]), indices)

    def observation(self, observation: Any) -> Any:
        """Return the observation without its velocities."""
        return np.where(self.hidden, np.zeros_like(observation), observation)
