"""Flatten observations into vectors."""

from __future__ import annotations

from typing import Any

import gymnasium
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional

from sheeprl.envs.transforms import ACTION_MASK, vector_size

__all__ = ["to_vector", "vector_size"]


def to_vector(space: gymnasium.Space[Any], obs: Any, batch_dims: int = 1) -> Tensor:
    """Return one float vector per observation: Boxes flattened, choices one-hot, Dicts joined in the space's order.

    An action mask is left out.

    Args:
        space: the observation space.
        obs: tensor `[*batch, *shape]`, or a mapping of such tensors for a Dict space.
        batch_dims: number of leading batch axes.

    Returns:
        `[*batch, vector_size(space)]` float tensor.
    """
    if isinstance(space, spaces.Dict):
        parts = [to_vector(part, obs[name], batch_dims) for name, part in space.items() if name != ACTION_MASK]
        return torch.cat(parts, -1)
    if isinstance(space, spaces.Discrete):
        return functional.one_hot(obs.long() - int(space.start), int(space.n)).float()
    if isinstance(space, spaces.MultiDiscrete):
        return _one_hot_of_each(space, obs.long(), batch_dims)
    vector: Tensor = obs.float()
    if vector.dim() == batch_dims + 1:  # the common case first: a reshape costs time in a small network
        return vector
    return vector.flatten(batch_dims) if vector.dim() > batch_dims else vector.unsqueeze(-1)


def _one_hot_of_each(space: spaces.MultiDiscrete, obs: Tensor, batch_dims: int) -> Tensor:
    """Return the joined one-hot vectors of the elements of a MultiDiscrete: `[*batch, sum(nvec)]`."""
    elements = obs.flatten(batch_dims)
    choices = list(zip(space.nvec.reshape(-1).tolist(), space.start.reshape(-1).tolist(), strict=True))
    if len(set(choices)) == 1:
        count, start = choices[0]
        return functional.one_hot(elements - start, count).flatten(batch_dims).float()
    parts = zip(elements.unbind(-1), choices, strict=True)
    return torch.cat([functional.one_hot(part - start, count) for part, (count, start) in parts], -1).float()
