"""MLPs of equal sizes whose layers are stacked, so that one batched matrix product per layer computes all of them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sheeprl.models.mlp import ACTIVATIONS, mlp

EPSILON = 1e-12  # added to variances, whose root has no gradient at 0


def stacked_parameters(networks: Iterable[nn.Module]) -> tuple[nn.ParameterList, nn.ParameterList]:
    """Return copies of the linear layers of MLPs: weights `[networks, in, out]` and biases `[networks, 1, out]`."""
    each = zip(
        *([layer for layer in network.modules() if isinstance(layer, nn.Linear)] for network in networks),
        strict=True,
    )
    layers = [tuple(layers) for layers in each]
    weights = [torch.stack([layer.weight.detach().T for layer in same]) for same in layers]
    biases = [torch.stack([layer.bias.detach()[None] for layer in same]) for same in layers]
    return (
        nn.ParameterList(nn.Parameter(weight) for weight in weights),
        nn.ParameterList(nn.Parameter(bias) for bias in biases),
    )


def apply_stacked(inputs: Tensor, weights: Iterable[Tensor], biases: Iterable[Tensor], activation: nn.Module) -> Tensor:
    """Return the outputs of all networks for the same inputs: `[N, in]` to `[networks, N, out]`."""
    hidden = inputs
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        hidden = activation(hidden) if number else inputs.expand(len(weight), *inputs.shape)
        hidden = torch.baddbmm(bias, hidden, weight)
    return hidden


class Ensemble(nn.Module):
    """Ensemble of MLPs.

    Args:
        networks: number of MLPs, which differ in their initial weights.
        inputs: size of the input vectors.
        units: width of the hidden layers.
        layers: number of hidden layers.
        outputs: size of the output vectors.
    """

    def __init__(self, networks: int, inputs: int, units: int, layers: int, outputs: int) -> None:
        """Draw the weights."""
        super().__init__()
        members = [mlp(inputs, (units,) * layers, outputs, "elu") for _ in range(networks)]
        self.weights, self.biases = stacked_parameters(members)
        self.activation = ACTIVATIONS["elu"]()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs of all networks: `[*, inputs]` to `[networks, *, outputs]`."""
        outputs = apply_stacked(inputs.flatten(0, -2), self.weights, self.biases, self.activation)
        return outputs.view(len(outputs), *inputs.shape[:-1], -1)


def disagreement(predictions: Tensor) -> Tensor:
    """Return the standard deviation over networks, averaged over outputs: `[networks, *, outputs]` to `[*]`."""
    variance = predictions.var(0, correction=0)
    return (variance + EPSILON).sqrt().mean(-1)
