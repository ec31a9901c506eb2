"""Linear layers with learned noise (NoisyNet, Fortunato et al. 2018, 1706.10295)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


def factors(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draw the factors f(ε) = sign(ε) √|ε| of noise, with standard normal ε, eq. 10 and 11; float32 of `shape`."""
    noise = torch.randn(*shape, generator=generator)
    return noise.sign() * noise.abs().sqrt()


class NoisyLinear(nn.Module):
    """Linear layer y = W x + b + f(ε_out) ∘ (Σ (f(ε_in) ∘ x) + σ) with factorized noise, eq. 10 and 11.

    Noise that a batch shares is added to the weights. Noise of each sample is applied to its inputs and outputs, so the
    batch needs no weights per sample.

    Args:
        inputs: size of the input vectors.
        outputs: size of the output vectors.
        std: initial noise σ₀; parameters of the noise start at σ₀ / √inputs.
    """

    def __init__(self, inputs: int, outputs: int, std: float) -> None:
        """Initialize as in section 3.2 of the paper."""
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.weight_noise = nn.Parameter(torch.full((outputs, inputs), std * bound))
        self.bias_noise = nn.Parameter(torch.full((outputs,), std * bound))
        self.noise_size = inputs + outputs
        """Number of factors of the noise."""

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        """Apply the layer: `[*batch, inputs]` to `[*batch, outputs]`.

        Args:
            inputs: `[*batch, inputs]`.
            noise: result of `factors`, `[noise_size]` for the same noise in all samples, or `[*batch, noise_size]`;
                None without noise.
        """
        if noise is None:
            return functional.linear(inputs, self.weight, self.bias)
        outputs, size = self.weight.shape
        noise_in, noise_out = noise.split_with_sizes([size, outputs], -1)
        if noise.ndim == 1:
            weight = self.weight + self.weight_noise * torch.outer(noise_out, noise_in)
            return functional.linear(inputs, weight, self.bias + self.bias_noise * noise_out)
        mean = functional.linear(inputs, self.weight, self.bias)
        return mean + noise_out * functional.linear(noise_in * inputs, self.weight_noise, self.bias_noise)


class NoisyMLP(nn.Module):
    """MLP of noisy layers, with ReLU after each hidden layer.

    Args:
        inputs: size of the input vectors.
        hidden: sizes of the hidden layers.
        outputs: size of the output vectors.
        std: initial noise σ₀ of each layer.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, std: float) -> None:
        """Build the layers."""
        super().__init__()
        sizes = itertools.pairwise([inputs, *hidden, outputs])
        self.layers = nn.ModuleList(NoisyLinear(size_in, size_out, std) for size_in, size_out in sizes)
        self.noise_sizes = [layer.noise_size for layer in cast("list[NoisyLinear]", self.layers)]
        self.noise_size = sum(self.noise_sizes)
        """Number of factors of the noise, of all layers."""

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        """Apply all layers; see `NoisyLinear.forward`."""
        parts = [None] * len(self.layers) if noise is None else noise.split_with_sizes(self.noise_sizes, -1)
        for number, (layer, part) in enumerate(zip(self.layers, parts, strict=True)):
            inputs = layer.forward(functional.relu(inputs) if number else inputs, part)
        return inputs
