"""Layers of linear map, root-mean-square normalization and SiLU, as in DreamerV3, Hafner et al. 2023 (2301.04104)."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sheeprl.models.mlp import WEIGHTED

EPSILON = 1e-4  # added to the mean square
TRUNCATED_DEVIATION = 0.87962566103423978  # of a standard normal that is truncated to [-2, 2]
ModuleT = TypeVar("ModuleT", bound=nn.Module)


class RMSNorm(nn.Module):
    """Root-mean-square normalization, Zhang and Sennrich 2019 (1910.07467): g x / √(mean(x²) + ε).

    Args:
        size: size of the normalized axis.
        axis: the normalized axis, counted from the end; −3 for the channels of pictures `[*, C, H, W]`.
    """

    def __init__(self, size: int, axis: int = -1) -> None:
        """Start with the gain 1."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """Normalize one axis."""
        if self.axis == -1:
            return functional.rms_norm(x, self.weight.shape, self.weight, EPSILON)
        scale = (x.square().mean(self.axis, keepdim=True) + EPSILON).rsqrt()
        return x * scale * self.weight.view(-1, *[1] * (-self.axis - 1))


def _inverse_root(x: Tensor) -> Tensor:
    """Return 1 / √(mean(x²) + ε) of vectors: `[*, n]` to `[*, 1]`."""
    n = x.shape[-1]
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().add_(n * EPSILON).rsqrt_().mul_(math.sqrt(n))


class _NormedSiLU(torch.autograd.Function):
    """SiLU(g x / √(mean(x²) + ε)) as one node of autograd, which a small recurrent cell needs for speed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """Normalize the last axis of x, `[*, n]`, and apply gain and SiLU."""
        scale = _inverse_root(x)
        normal = x * scale
        gained = normal * weight
        ctx.save_for_backward(normal, scale, weight, gained)
        return functional.silu(gained)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the gradients: with y = x / r, that of x is (dy − y mean(y dy)) / r."""
        normal, scale, weight, gained = ctx.saved_tensors
        outer = torch.ops.aten.silu_backward(gradients[0], gained)
        products = outer * normal
        projection = torch.matmul(products, weight).unsqueeze(-1)
        by_x = outer.mul_(weight).addcmul_(normal, projection, value=-1.0 / len(weight)).mul_(scale)
        return by_x, products.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None


class NormedSiLU(nn.Module):
    """RMSNorm and SiLU of vectors.

    Args:
        size: length of the vectors.
    """

    def __init__(self, size: int) -> None:
        """Start with the gain 1."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last axis and apply SiLU."""
        if not torch.is_grad_enabled():
            return functional.silu((x * _inverse_root(x)).mul_(self.weight), inplace=True)
        result: Tensor = _NormedSiLU.apply(x, self.weight)  # type: ignore[no-untyped-call]
        return result


class BlockLinear(nn.Module):
    """Linear map in blocks: each block of the output sees only its block of the input.

    Args:
        inputs: size of each block of the input.
        outputs: size of each block of the output.
        blocks: number of blocks.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        """Draw the weights."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(blocks, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(blocks, 1, outputs))
        fill_truncated_normal(self.weight, inputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[blocks, N, inputs]` to `[blocks, N, outputs]`."""
        return torch.bmm(x, self.weight).add_(self.bias)


@torch.no_grad()
def fill_truncated_normal(weight: Tensor, fan_in: int, scale: float = 1.0) -> None:
    """Fill a weight with truncated normal numbers of the deviation scale / √fan_in."""
    nn.init.trunc_normal_(weight, 0.0, 1.0, -2.0, 2.0)
    weight.mul_(scale / (TRUNCATED_DEVIATION * math.sqrt(fan_in)))


@torch.no_grad()
def truncated_normal_(module: ModuleT, output_scale: float = 1.0) -> ModuleT:
    """Initialize weights of linear and convolutional layers by truncated normals, biases to 0. Return the module.

    Args:
        module: network, which is initialized in place.
        output_scale: factor on the weights of the last layer.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, WEIGHTED)]
    for layer in layers:
        fan_in = layer.weight[0].numel()
        fill_truncated_normal(layer.weight, fan_in, output_scale if layer is layers[-1] else 1.0)
        if layer.bias is not None:
            layer.bias.zero_()
    return module


def normed_mlp(inputs: int, units: int, layers: int, outputs: int | None = None, scale: float = 1.0) -> nn.Sequential:
    """Build layers of linear map, RMSNorm and SiLU, and a linear output layer.

    Args:
        inputs: size of the input vectors.
        units: size of the hidden layers.
        layers: number of hidden layers.
        outputs: size of the output vectors; None leaves the output layer out.
        scale: factor on the output layer's initial weights.
    """
    parts: list[nn.Module] = []
    for number in range(layers):
        parts += [nn.Linear(units if number else inputs, units), NormedSiLU(units)]
    if outputs is None:
        return truncated_normal_(nn.Sequential(*parts))
    return truncated_normal_(nn.Sequential(*parts, nn.Linear(units if layers else inputs, outputs)), scale)


class JoinedLayer(nn.Module):
    """Layer on two joined inputs, of which one is known before the unroll: linear map, then normalization and so on.

    Args:
        inputs: size of the input of each step.
        known: size of the input that is known before.
        outputs: size of the output.
        activation: what follows the linear map.
    """

    def __init__(self, inputs: int, known: int, outputs: int, activation: nn.Module) -> None:
        """Build the layer."""
        super().__init__()
        self.linear = nn.Linear(inputs + known, outputs)
        self.inputs, self.activation = inputs, activation

    def prepare(self, known: Tensor) -> Tensor:
        """Return the products with the known input: `[*, known]` to `[*, outputs]`."""
        return functional.linear(known, self.linear.weight[:, self.inputs :], self.linear.bias)

    def step_weight(self) -> Tensor:
        """Return the weight of the other input, transposed. An unroll slices it once, not in each step."""
        return self.linear.weight[:, : self.inputs].t()

    def forward(self, x: Tensor, prepared: Tensor, weight: Tensor) -> Tensor:
        """Return the outputs `[N, outputs]` of inputs `[N, inputs]`, the result of `prepare` and `step_weight()`."""
        result: Tensor = self.activation(torch.addmm(prepared, x, weight))
        return result
