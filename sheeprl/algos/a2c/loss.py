"""A2C's policy loss, as a pure function. Its other losses are PPO's.

`weight` is the batch's `sample_weight`, so `(weight * x).sum()` is the mean of x over the whole trainer group, E[x].
"""

from __future__ import annotations

from torch import Tensor


def policy_loss(logprob: Tensor, advantage: Tensor, weight: Tensor) -> Tensor:
    """Return −E[log π(a|s) A], Mnih et al. 2016 (1602.01783), algorithm S3. Inputs are `[N]`."""
    return -(weight * logprob * advantage).sum()
