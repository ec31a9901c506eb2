"""Action distributions. Sampling takes its noise as a tensor, so every function is pure but `exponential_like`."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

LOG_2PI = math.log(2 * math.pi)


def exponential_like(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Sample exponential noise of rate 1, in the shape of `logits`, for `categorical_sample`."""
    return torch.empty_like(logits).exponential_(generator=generator)


def categorical_sample(logits: Tensor, exponential: Tensor) -> Tensor:
    """Sample from softmax(logits) by the Gumbel-max trick: argmax_i (logits_i + G_i) with G_i = −log E_i.

    Args:
        logits: `[*, n]`.
        exponential: `[*, n]` exponential noise E of rate 1; −log E is Gumbel noise G.

    Returns:
        `[*]` int64 actions.
    """
    return (logits - exponential.log()).argmax(-1)


def categorical_logprob(logits: Tensor, action: Tensor) -> Tensor:
    """Return log softmax(logits)[action]: `[*, n]` logits and `[*]` actions to `[*]`."""
    return logits.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)


def categorical_entropy(logits: Tensor) -> Tensor:
    """Return −Σ_i p_i log p_i with p = softmax(logits): `[*, n]` to `[*]`."""
    logprob = logits.log_softmax(-1)
    return -(logprob.exp() * logprob).sum(-1)


def masked(logits: Tensor, mask: Tensor) -> Tensor:
    """Return logits in which those of forbidden choices are so low that their probability and gradient are 0.

    The value is half the lowest number of the dtype, so log probabilities and entropies stay finite.

    Args:
        logits: `[*, n]`.
        mask: `[*, n]` booleans, true for permitted choices.
    """
    return torch.where(mask, logits, torch.finfo(logits.dtype).min / 2)


def bernoulli_sample(logits: Tensor, uniform: Tensor) -> Tensor:
    """Sample independent bits, 1 with probability sigmoid(logits), by uniform noise in [0, 1): `[*]` to int8 `[*]`."""
    return (uniform < logits.sigmoid()).to(torch.int8)


def bernoulli_logprob(logits: Tensor, action: Tensor) -> Tensor:
    """Return log P(action) of independent bits, summed over the last axis: `[*, n]` to `[*]`."""
    return functional.logsigmoid(torch.where(action.bool(), logits, -logits)).sum(-1)


def bernoulli_entropy(logits: Tensor) -> Tensor:
    """Return −Σ_i (p_i log p_i + (1 − p_i) log(1 − p_i)) with p = sigmoid(logits): `[*, n]` to `[*]`."""
    one = logits.sigmoid() * functional.logsigmoid(logits)
    zero = (-logits).sigmoid() * functional.logsigmoid(-logits)
    return -(one + zero).sum(-1)


def normal_logprob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Return log N(action; mean, std) of independent normals, summed over the last axis: `[*, n]` to `[*]`."""
    z = (action - mean) * torch.exp(-log_std)
    return (-0.5 * z * z - log_std - 0.5 * LOG_2PI).sum(-1)


def normal_entropy(log_std: Tensor) -> Tensor:
    """Return ½ + ½ log 2π + log std of independent normals, summed over the last axis: `[*, n]` to `[*]`."""
    return (0.5 + 0.5 * LOG_2PI + log_std).sum(-1)


def tanh_normal_sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Sample from tanh(N(mean, std)) by reparametrization and return the log density of the sample.

    a = tanh(u) with u = mean + std · noise, and log π(a) = log N(u) − Σ_i log(1 − tanh²(u_i)), Haarnoja et al. 2018
    (1812.05905), appendix C. The form log(1 − tanh²(u)) = 2 (log 2 − u − softplus(−2u)) doesn't overflow.

    Args:
        mean: `[*, n]`.
        log_std: `[*, n]`.
        noise: `[*, n]`, standard normal.

    Returns:
        The action `[*, n]` in [−1, 1] and its log density `[*]`.
    """
    u = mean + log_std.exp() * noise
    normal = -0.5 * noise * noise - log_std - 0.5 * LOG_2PI
    log_slope = 2.0 * (math.log(2.0) - u - functional.softplus(-2.0 * u))
    return torch.tanh(u), (normal - log_slope).sum(-1)
