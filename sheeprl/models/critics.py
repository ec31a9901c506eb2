"""Ensembles of action-value networks, and the parts of temporal-difference learning that they share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sheeprl.models.encoder import to_vector

if TYPE_CHECKING:
    from tensordict import TensorDict


class Critics(nn.Module):
    """Ensemble of action-value networks Q_i(obs, action).

    Args:
        observation: observation space.
        networks: networks from vectors of observation and action to one value.
    """

    def __init__(self, observation: Any, networks: Iterable[nn.Module]) -> None:
        """Store the networks."""
        super().__init__()
        self.space = observation
        self.networks = nn.ModuleList(networks)

    def inputs(self, obs: Any, action: Tensor) -> Tensor:
        """Return the input vectors of the networks, `[N, *]`."""
        return torch.cat([to_vector(self.space, obs), action], -1)

    def forward(self, obs: Any, action: Tensor, seed: Tensor | None = None) -> Tensor:
        """Return the values `[networks, N]`.

        Args:
            obs: `[N, *]` observations.
            action: `[N, action_dim]`.
            seed: `[N]` seeds of networks that draw random numbers (`models.noise`); others don't use it.
        """
        inputs = self.inputs(obs, action)
        return torch.cat([network(inputs) for network in self.networks], -1).T


def draw_subset(count: int, size: int, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Draw `size` of `count` critics without replacement, the same ones for all samples.

    Returns:
        `[N, size]` int64, equal rows: ranks get slices of noise along the samples.
    """
    return torch.randperm(count, generator=generator)[:size].repeat(shape[0], 1)


def discount(batch: TensorDict, gamma: float) -> Tensor:
    """Return the factor of the value of `next_obs`, `[N]`: γ^k over k steps, and 0 after termination.

    Truncated episodes bootstrap. Samples of n-step returns have a key `discount`; see `NStep`.
    """
    n_step: Tensor | None = batch.get("discount", None)
    return gamma * (~batch["terminated"]) if n_step is None else n_step


def loss_weight(batch: TensorDict) -> Tensor:
    """Return the weight of each sample's error, `[N]`: `sample_weight`, times `importance` if prioritized."""
    importance: Tensor | None = batch.get("importance", None)
    weight: Tensor = batch["sample_weight"]
    return weight if importance is None else weight * importance


def squared_errors(q: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return Σ_i E[(Q_i − y)²]. `q` is `[networks, N]`, `target` y and `weight` are `[N]`."""
    return (weight * (q - target) ** 2).sum()


def priorities(q: Tensor, target: Tensor, batch: TensorDict) -> Tensor | None:
    """Return the mean |Q_i − y| of each sample, `[N]`, if the batch was drawn by priority, else None."""
    return None if batch.get("importance", None) is None else (q - target).detach().abs().mean(0)
