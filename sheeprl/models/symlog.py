"""Symmetric logarithm, and distributions of scalars over a grid of bins that are exponentially far apart.

Hafner et al. 2023 (2301.04104) predict observations, rewards and values of any magnitude with them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sheeprl.models.precision import full_precision


def symlog(x: Tensor) -> Tensor:
    """Return sign(x) log(1 + |x|)."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """Return sign(x) (exp(|x|) − 1), the inverse of `symlog`."""
    return x.sign() * x.abs().expm1()


class TwoHot(nn.Module):
    """Distribution of a scalar over bins, trained by cross entropy with a target on the two nearest bins.

    The bins are symexp of evenly spaced numbers. The grid is exactly symmetric, and so is the order of the sums in
    `mean`: uniform probabilities have the mean 0.

    Args:
        bins: number of bins, odd.
        limit: the outer bins are symexp(±limit).
    """

    bins: Tensor

    def __init__(self, bins: int = 255, limit: float = 20.0) -> None:
        """Compute the bins."""
        super().__init__()
        half = symexp(torch.linspace(-limit, 0.0, bins // 2 + 1))
        self.register_buffer("bins", torch.cat([half, -half[:-1].flip(0)]), persistent=False)

    def mean(self, logits: Tensor) -> Tensor:
        """Return Σ_i p_i b_i with p = softmax(logits): `[*, bins]` to `[*]`."""
        probability, middle = full_precision(logits).softmax(-1), len(self.bins) // 2
        lower = (probability[..., :middle] * self.bins[:middle]).flip(-1)
        upper = probability[..., middle + 1 :] * self.bins[middle + 1 :]
        return (lower + upper).sum(-1) + probability[..., middle] * self.bins[middle]

    def loss(self, logits: Tensor, target: Tensor, other: Tensor | None = None, scale: float = 1.0) -> Tensor:
        """Return the cross entropy −Σ_i t_i log p_i, where the two-hot target t has the mean `target`.

        Args:
            logits: `[*, bins]`.
            target: `[*]`; values outside of the grid count as its nearest end.
            other: `[*]`, a second target, whose cross entropy is added; both take one softmax.
            scale: coefficient of the second cross entropy.
        """
        targets = target.unsqueeze(-1) if other is None else torch.stack([target, other], -1)
        targets = targets.clamp(self.bins[0], self.bins[-1])
        above = torch.searchsorted(self.bins, targets, right=True).clamp(1, len(self.bins) - 1)
        lower, upper = self.bins[above - 1], self.bins[above]
        share = (targets - lower) / (upper - lower)
        parts = torch.stack([1.0 - share, share], -1)
        if other is not None:
            parts = torch.stack([parts[..., 0, :], scale * parts[..., 1, :]], -2)
        places = torch.stack([above - 1, above], -1)
        logprob = full_precision(logits).log_softmax(-1).gather(-1, places.flatten(-2))
        return -(parts.flatten(-2) * logprob).sum(-1)
