"""REINFORCE's formulas. Pure functions; `weight` sums to 1 over a batch, so a weighted sum is a mean."""

from __future__ import annotations

import torch
from torch import Tensor


def discounted_returns(reward: Tensor, value: Tensor, terminated: Tensor, truncated: Tensor, gamma: float) -> Tensor:
    """R_t = r_{t+1} + γ G_{t+1}; G is 0 where the episode terminated, V where it was cut, else R itself.

    Args:
        reward: `[T + 1, B]`, received on arrival at each row; the last row is the bootstrap row.
        value: `[T + 1, B]`, V of each row's observation.
        terminated: `[T + 1, B]` booleans.
        truncated: `[T + 1, B]` booleans.
        gamma: discount factor.

    Returns:
        `[T, B]`; without meaning on end rows, which carry no decision.
    """
    returns = torch.empty_like(reward[1:])
    following = value[-1]
    for t in reversed(range(len(returns))):
        following = torch.where(truncated[t + 1], value[t + 1], following) * ~terminated[t + 1]
        following = reward[t + 1] + gamma * following
        returns[t] = following
    return returns


def policy_loss(logprob: Tensor, advantage: Tensor, weight: Tensor) -> Tensor:
    """−mean(A log π(a|s)), whose gradient is Williams' estimate (1992, theorem 1). All inputs `[N]`."""
    return -(weight * advantage * logprob).sum()


def baseline_loss(value: Tensor, returns: Tensor, weight: Tensor) -> Tensor:
    """Mean of (V − R)². All inputs `[N]`."""
    return (weight * (value - returns) ** 2).sum()
