"""λ-returns of imagined and of replayed sequences."""

from __future__ import annotations

import torch
from torch import Tensor


def lambda_returns(reward: Tensor, discount: Tensor, value: Tensor, lambda_: Tensor | float) -> Tensor:
    """Return R_t = r_{t+1} + d_{t+1} ((1 − λ_{t+1}) v_{t+1} + λ_{t+1} R_{t+1}), with R_T = v_T.

    Args:
        reward: `[T, *]`, r_1 to r_T, received on arrival at each following state.
        discount: `[T, *]`, d_1 to d_T: the discount factor times the probability that the episode goes on.
        value: `[T, *]`, v_1 to v_T.
        lambda_: λ, a number or `[T, *]`. 0 at a row that ends an episode makes its value the bootstrap.

    Returns:
        `[T, *]`, R_0 to R_{T−1}.
    """
    following, returns = value[-1], []
    fixed = reward + discount * (1.0 - lambda_) * value
    factor = discount * lambda_
    for now, keeps in zip(reversed(fixed.unbind(0)), reversed(factor.unbind(0)), strict=True):
        following = now + keeps * following
        returns.append(following)
    return torch.stack(returns[::-1])
