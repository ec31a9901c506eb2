"""A formula of the Dreamers before the third, as a pure function."""

from __future__ import annotations

import torch
from torch import Tensor

from sheeprl.models.ranks import all_rows


def with_free_nats(kl: Tensor, free: float, weight: Tensor) -> Tensor:
    """Return terms whose mean over the batch of all ranks is max(free, E[KL]).

    Args:
        kl: KL divergences `[L, N]`.
        free: free nats.
        weight: the batch's `sample_weight`, `[N]`.

    Returns:
        `[L, N]`: the divergences if their mean exceeds the free nats, else the free nats, without a gradient.
    """
    totals, weights = all_rows(torch.stack([weight * kl.mean(0), weight], -1)).sum(0).unbind()
    return torch.where(totals > free * weights, kl, torch.full_like(kl, free))
