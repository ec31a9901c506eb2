"""Distributions of actions. Their noise comes in as tensors, so sampling is a pure function."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

LOG_2PI = math.log(2 * math.pi)


def exponential_like(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draws of the exponential distribution of rate 1, which `categorical_sample` takes."""
    return torch.empty_like(logits).exponential_(generator=generator)


def categorical_sample(logits: Tensor, exponential: Tensor) -> Tensor:
    """A draw of each row's softmax distribution by the Gumbel-max trick: `[*, n]` and `[*, n]` to `[*]` int64.

    Gumbel variates are −log of exponential ones.
    """
    return (logits - exponential.log()).argmax(-1)


def categorical_logprob(logits: Tensor, action: Tensor) -> Tensor:
    """Log softmax(logits)[action]: `[*, n]` and `[*]` to `[*]`."""
    return logits.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)


def categorical_entropy(logits: Tensor) -> Tensor:
    """−Σ p log p: `[*, n]` to `[*]`."""
    logprob = logits.log_softmax(-1)
    return -(logprob.exp() * logprob).sum(-1)


def normal_logprob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log density of independent normals, summed over the last axis: `[*, n]` to `[*]`."""
    z = (action - mean) * torch.exp(-log_std)
    return (-0.5 * z * z - log_std - 0.5 * LOG_2PI).sum(-1)


def normal_entropy(log_std: Tensor) -> Tensor:
    """Entropy of independent normals, summed over the last axis: `[*, n]` to `[*]`."""
    return (0.5 + 0.5 * LOG_2PI + log_std).sum(-1)


def tanh_normal_sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """A draw of tanh(N(mean, std)) and its log density.

    log π(a) = log N(u) − Σ log(1 − tanh²(u)), Haarnoja et al. 2018 (1812.05905), appendix C, with
    log(1 − tanh²(u)) = 2 (log 2 − u − softplus(−2u)), which doesn't overflow.

    Args:
        mean: `[*, n]`.
        log_std: `[*, n]`.
        noise: `[*, n]`, standard normal.

    Returns:
        The action `[*, n]` in (−1, 1) and its log density `[*]`.
    """
    u = mean + log_std.exp() * noise
    normal = -0.5 * noise * noise - log_std - 0.5 * LOG_2PI
    log_slope = 2.0 * (math.log(2.0) - u - functional.softplus(-2.0 * u))
    return torch.tanh(u), (normal - log_slope).sum(-1)
