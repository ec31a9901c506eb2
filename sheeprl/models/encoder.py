"""From observations to feature vectors."""

from __future__ import annotations

from typing import Any

import gymnasium
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional

from sheeprl.envs.transforms import vector_size

__all__ = ["to_vector", "vector_size"]


def to_vector(space: gymnasium.Space[Any], obs: Any, batch_dims: int = 1) -> Tensor:
    """Observations as one float vector each: Boxes flattened, Discretes one-hot, Dicts joined in the space's order.

    Args:
        space: the observation space.
        obs: a tensor `[*batch, *shape]`, or a mapping of such for a Dict space.
        batch_dims: how many leading axes are batch axes.

    Returns:
        `[*batch, vector_size(space)]` float tensor.
    """
    if isinstance(space, spaces.Dict):
        parts = [to_vector(part, obs[name], batch_dims) for name, part in space.items()]
        return torch.cat(parts, -1)
    if isinstance(space, spaces.Discrete):
        return functional.one_hot(obs.long() - int(space.start), int(space.n)).float()
    vector: Tensor = obs.float()
    if vector.dim() == batch_dims + 1:  # as most are
        return vector
    return vector.flatten(batch_dims) if vector.dim() > batch_dims else vector.unsqueeze(-1)
