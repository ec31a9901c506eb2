"""Capability of algorithms whose agents predict observations, rewards and the end of episodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tensordict import TensorDict


@dataclass(frozen=True)
class Scene:
    """Rows of episodes, true or predicted.

    Args:
        pictures: pictures `[T, B, C, H, W]` in [0, 1].
        vector: joined vectors of the observation in its own units, `[T, B, n]`; None without vectors.
        reward: `[T, B]`, received on arrival.
        continues: `[T, B]`, 1 or the probability that the episode hasn't terminated.
    """

    pictures: Sequence[Tensor]
    vector: Tensor | None
    reward: Tensor
    continues: Tensor


class WorldModel(ABC):
    """An algorithm that can dream. Derive from it besides `Algorithm`."""

    @abstractmethod
    def dream(self, agent: Any, rows: TensorDict, context: int, generator: torch.Generator) -> tuple[Scene, Scene]:
        """Predict rows of episodes from their first observations and all their actions.

        Args:
            agent: all networks.
            rows: `[T, B]` rows of episodes from their first row on: `obs`, `action`, `reward`, `terminated`.
            context: rows whose observations the agent sees. It only imagines the later ones.
            generator: generator of the samples.

        Returns:
            The true rows and the predicted ones; those of the context are reconstructed.
        """
