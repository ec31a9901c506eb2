"""REINFORCE's formulas, as pure functions.

`weight` is the batch's `sample_weight`, so `(weight * x).sum()` is the mean of x, written E[x].
"""

from __future__ import annotations

import torch
from torch import Tensor


def discounted_returns(reward: Tensor, value: Tensor, terminated: Tensor, truncated: Tensor, gamma: float) -> Tensor:
    """Return R_t = r_{t+1} + γ G_{t+1}, with G = 0 on a terminated end row, V on a truncated one, and R elsewhere.

    Args:
        reward: `[T + 1, B]`, received on arrival at each row; the last row is the bootstrap row.
        value: `[T + 1, B]`, V of each row's observation.
        terminated: `[T + 1, B]` booleans.
        truncated: `[T + 1, B]` booleans.
        gamma: discount factor γ.

    Returns:
        `[T, B]`; meaningless on end rows, which have no action.
    """
    returns = torch.empty_like(reward[1:])
    next_return = value[-1]
    for t in reversed(range(len(returns))):
        next_return = torch.where(truncated[t + 1], value[t + 1], next_return) * ~terminated[t + 1]
        next_return = reward[t + 1] + gamma * next_return
        returns[t] = next_return
    return returns


def policy_loss(logprob: Tensor, advantage: Tensor, weight: Tensor) -> Tensor:
    """Return −E[A log π(a|s)]; its gradient is Williams' estimate (1992, theorem 1). Inputs are `[N]`."""
    return -(weight * advantage * logprob).sum()


def baseline_loss(value: Tensor, returns: Tensor, weight: Tensor) -> Tensor:
    """Return E[(V − R)²]. Inputs are `[N]`."""
    return (weight * (value - returns) ** 2).sum()
