"""Flatten observations into vectors."""

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
    """Convert each observation to one float vector.

    A Box is flattened, a Discrete is one-hot, and the parts of a Dict are concatenated in the space's order.

    Args:
        space: the observation space.
        obs: tensor `[*batch, *shape]`, or a mapping of such tensors for a Dict space.
        batch_dims: number of leading batch axes.

    Returns:
        `[*batch, vector_size(space)]` float tensor.
    """
    if isinstance(space, spaces.Dict):
        parts = [to_vector(part, obs[name], batch_dims) for name, part in space.items()]
        return torch.cat(parts, -1)
    if isinstance(space, spaces.Discrete):
        return functional.one_hot(obs.long() - int(space.start), int(space.n)).float()
    vector: Tensor = obs.float()
    if vector.dim() == batch_dims + 1:  # the common case first: a reshape costs time in a small network
        return vector
    return vector.flatten(batch_dims) if vector.dim() > batch_dims else vector.unsqueeze(-1)
