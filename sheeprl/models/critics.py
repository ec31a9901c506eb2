"""Ensembles of action-value networks, and the parts of temporal-difference learning that they share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

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

    def forward(self, obs: Any, action: Tensor, seed: Tensor | None = None, chosen: Tensor | None = None) -> Tensor:
        """Return the values `[networks, N]`.

        Args:
            obs: `[N, *]` observations.
            action: `[N, action_dim]`.
            seed: `[N]` seeds of networks that draw random numbers (`models.noise`); others don't use it.
            chosen: `[M]` int64, numbers of the networks to return; None for all.
        """
        values = self.values(self.inputs(obs, action), seed)
        return values if chosen is None else values[chosen]

    def values(self, inputs: Tensor, seed: Tensor | None) -> Tensor:
        """Return the values `[networks, N]` of input vectors."""
        return torch.cat([network(inputs) for network in self.networks], -1).T


class StackedCritics(Critics):
    """Ensemble whose networks are computed together, by batched matrix products.

    Its compiled step is shorter than one with a product per network and layer. It computes only the chosen networks.

    Args:
        observation: observation space.
        networks: MLPs of equal sizes with ReLU; their parameters are copied.
    """

    def __init__(self, observation: Any, networks: Iterable[nn.Module]) -> None:
        """Stack the parameters of the networks' layers: weights `[networks, in, out]`, biases `[networks, 1, out]`."""
        super().__init__(observation, ())
        each = zip(
            *([layer for layer in network.modules() if isinstance(layer, nn.Linear)] for network in networks),
            strict=True,
        )
        layers = [tuple(layers) for layers in each]
        weights = [torch.stack([layer.weight.detach().T for layer in same]) for same in layers]
        biases = [torch.stack([layer.bias.detach()[None] for layer in same]) for same in layers]
        self.weights = nn.ParameterList(nn.Parameter(weight) for weight in weights)
        self.biases = nn.ParameterList(nn.Parameter(bias) for bias in biases)

    def forward(self, obs: Any, action: Tensor, seed: Tensor | None = None, chosen: Tensor | None = None) -> Tensor:
        """Return the values `[networks, N]`; see `Critics.forward`."""
        inputs = self.inputs(obs, action)
        weights, biases = list(self.weights), list(self.biases)
        if chosen is not None:
            weights, biases = [[part[chosen] for part in parts] for parts in (weights, biases)]
        hidden = inputs.expand(len(weights[0]), *inputs.shape)
        for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            hidden = torch.baddbmm(bias, functional.relu(hidden) if number else hidden, weight)
        return hidden.squeeze(-1)


def ensemble(observation: Any, networks: Iterable[nn.Module]) -> Critics:
    """Return an ensemble of MLPs: stacked if there are more than two."""
    networks = list(networks)
    return (StackedCritics if len(networks) > 2 else Critics)(observation, networks)


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
