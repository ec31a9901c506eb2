"""Ensembles of action-value networks, and the parts of temporal-difference learning that they share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sheeprl.models.stacked import apply_stacked, stacked_parameters

if TYPE_CHECKING:
    from tensordict import TensorDict


class Critics(nn.Module):
    """Ensemble of action-value networks Q_i(s, a).

    Args:
        networks: networks from the inputs to one value, or to one value per choice.
        trunk: module that the features pass before the networks, which share it; None for none.
        choices: number of discrete actions; None for continuous actions, which are inputs of the networks.
    """

    def __init__(
        self, networks: Iterable[nn.Module], trunk: nn.Module | None = None, choices: int | None = None
    ) -> None:
        """Store the networks."""
        super().__init__()
        self.trunk = nn.Identity() if trunk is None else trunk
        self.networks = nn.ModuleList(networks)
        self.choices = choices

    def forward(
        self, features: Tensor, action: Tensor | None, seed: Tensor | None = None, chosen: Tensor | None = None
    ) -> Tensor:
        """Return the values `[networks, N]`; those of all choices, `[networks, N, choices]`, without an action.

        Args:
            features: `[N, *]` features of the observations, such as their vectors.
            action: `[N, action_dim]`, or `[N]` int64 for discrete actions; None for all choices.
            seed: `[N]` seeds of networks that draw random numbers (`models.noise`); others don't use it.
            chosen: `[M]` int64, numbers of the networks to return; None for all.
        """
        inputs = self.trunk(features)
        if self.choices is None:
            assert action is not None
            return self.values(torch.cat([inputs, action], -1), seed, chosen)[..., 0]
        values = self.values(inputs, seed, chosen)
        if action is None:
            return values
        return values.gather(-1, action.long().expand(len(values), -1).unsqueeze(-1)).squeeze(-1)

    def values(self, inputs: Tensor, seed: Tensor | None, chosen: Tensor | None) -> Tensor:
        """Return the outputs `[networks, N, outputs]` of the networks for input vectors `[N, *]`."""
        outputs = self.outputs(inputs, seed)
        return outputs if chosen is None else outputs[chosen]

    def outputs(self, inputs: Tensor, seed: Tensor | None) -> Tensor:
        """Return the outputs `[networks, N, outputs]` of all networks."""
        return torch.stack([network(inputs) for network in self.networks], -1).movedim(-1, 0)


class StackedCritics(Critics):
    """Ensemble whose networks are computed together, by batched matrix products.

    Its compiled step is shorter than one with a product per network and layer. It computes only the chosen networks.

    Args:
        networks: MLPs of equal sizes with ReLU; their parameters are copied.
        trunk: see `Critics`.
        choices: see `Critics`.
    """

    def __init__(
        self, networks: Iterable[nn.Module], trunk: nn.Module | None = None, choices: int | None = None
    ) -> None:
        """Stack the parameters of the networks' layers: weights `[networks, in, out]`, biases `[networks, 1, out]`."""
        super().__init__((), trunk, choices)
        self.weights, self.biases = stacked_parameters(networks)
        self.activation = nn.ReLU()

    def values(self, inputs: Tensor, seed: Tensor | None, chosen: Tensor | None) -> Tensor:
        """Return the outputs `[networks, N, outputs]` of the chosen networks; see `Critics.values`."""
        weights, biases = list(self.weights), list(self.biases)
        if chosen is not None:
            weights, biases = [[part[chosen] for part in parts] for parts in (weights, biases)]
        return apply_stacked(inputs, weights, biases, self.activation)


def ensemble(networks: Iterable[nn.Module], trunk: nn.Module | None = None, choices: int | None = None) -> Critics:
    """Return an ensemble of MLPs: stacked if there are more than two. The arguments are those of `Critics`."""
    networks = list(networks)
    return (StackedCritics if len(networks) > 2 else Critics)(networks, trunk, choices)


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
