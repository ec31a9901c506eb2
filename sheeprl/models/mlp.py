"""Multilayer perceptrons."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU}


class MLP(nn.Sequential):
    """Layers in a row, without what `nn.Module` does around each call: for small networks that takes longer than they.

    So hooks on a single layer are not called, and its parameters are taken as they are.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """`[N, *]` to `[N, *]`."""
        for layer in self:
            if type(layer) is nn.Linear:
                given = layer._parameters  # where `layer.weight` looks after everything else
                inputs = functional.linear(inputs, given["weight"], given["bias"])  # type: ignore[arg-type]
            else:
                inputs = layer.forward(inputs)
        return inputs


def mlp(inputs: int, hidden: Sequence[int], outputs: int, activation: str = "relu") -> MLP:
    """Linear layers with an activation between them: `[N, inputs]` to `[N, outputs]`."""
    sizes = [inputs, *hidden]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
    return MLP(*layers, nn.Linear(sizes[-1], outputs))


def orthogonal_(module: MLP, gain: float, output_gain: float) -> MLP:
    """Initialize weights orthogonally, biases to 0; the last layer has a gain of its own."""
    linears = [layer for layer in module if isinstance(layer, nn.Linear)]
    for layer in linears:
        nn.init.orthogonal_(layer.weight, output_gain if layer is linears[-1] else gain)
        with torch.no_grad():
            layer.bias.zero_()
    return module
