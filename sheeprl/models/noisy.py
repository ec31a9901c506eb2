"""Linear layers with learned noise (NoisyNet, Fortunato et al. 2018, 1706.10295)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from sheeprl.models.noise import normal


class NoisyLinear(nn.Module):
    """Linear layer y = W x + b + f(ε_out) ∘ (Σ (f(ε_in) ∘ x) + σ) with factorized noise, eq. 10 and 11.

    f(ε) = sign(ε) √|ε| of standard normal noise. Each sample has its own noise, drawn from its seed, so a batch needs
    no weights per sample and results don't depend on the number of ranks.

    Args:
        inputs: size of the input vectors.
        outputs: size of the output vectors.
        std: initial noise σ₀; parameters of the noise start at σ₀ / √inputs.
        place: number of the place, different in every layer of a network; see `models.noise.uniform`.
    """

    def __init__(self, inputs: int, outputs: int, std: float, place: int) -> None:
        """Initialize as in section 3.2 of the paper."""
        super().__init__()
        self.place = place
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.weight_noise = nn.Parameter(torch.full((outputs, inputs), std * bound))
        self.bias_noise = nn.Parameter(torch.full((outputs,), std * bound))

    def forward(self, inputs: Tensor, seed: Tensor | None = None) -> Tensor:
        """Apply the layer: `[N, inputs]` to `[N, outputs]`.

        Args:
            inputs: `[N, inputs]`.
            seed: `[N]` int64, one per sample; None without noise, for inputs of any batch shape.
        """
        mean = functional.linear(inputs, self.weight, self.bias)
        if seed is None:
            return mean
        outputs, size = self.weight.shape
        noise = normal(seed, self.place, (size + outputs,))
        noise = noise.sign() * noise.abs().sqrt()
        noise_in, noise_out = noise.split_with_sizes([size, outputs], -1)
        return mean + noise_out * functional.linear(noise_in * inputs, self.weight_noise, self.bias_noise)


class NoisyMLP(nn.Module):
    """MLP of noisy layers, with ReLU after each hidden layer.

    Args:
        inputs: size of the input vectors.
        hidden: sizes of the hidden layers.
        outputs: size of the output vectors.
        std: initial noise σ₀ of each layer.
        place: number of the first layer's place; the others follow.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, std: float, place: int = 0) -> None:
        """Build the layers."""
        super().__init__()
        sizes = itertools.pairwise([inputs, *hidden, outputs])
        self.layers = nn.ModuleList(
            NoisyLinear(size_in, size_out, std, place + number) for number, (size_in, size_out) in enumerate(sizes)
        )

    def forward(self, inputs: Tensor, seed: Tensor | None = None) -> Tensor:
        """Apply all layers; see `NoisyLinear.forward`."""
        for number, layer in enumerate(self.layers):
            inputs = layer.forward(functional.relu(inputs) if number else inputs, seed)
        return inputs
