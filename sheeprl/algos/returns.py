"""Advantages of rollouts, and the rows that have an action, as pure functions."""

from __future__ import annotations

import torch
from torch import Tensor


def has_action(terminated: Tensor, truncated: Tensor) -> Tensor:
    """Return booleans, true on rows with an action, so on all rows but end rows; both flags have the same shape."""
    return ~(terminated | truncated)


def compute_gae(
    reward: Tensor, value: Tensor, terminated: Tensor, truncated: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    """Return generalized advantage estimates, Schulman et al. 2016 (1506.02438), eq. 11 to 16.

    δ_t = r_{t+1} + γ V_{t+1} (1 − terminated_{t+1}) − V_t and A_t = δ_t + γ λ (1 − is_last_{t+1}) A_{t+1}, with
    is_last = terminated or truncated. The reward of the action in row t is in row t + 1. A truncated episode
    bootstraps from the value of its end row, a terminated one doesn't.

    Args:
        reward: `[T + 1, B]`, received on arrival at each row; the last row is the bootstrap row.
        value: `[T + 1, B]`, V of each row's observation.
        terminated: `[T + 1, B]` booleans.
        truncated: `[T + 1, B]` booleans.
        gamma: discount factor γ.
        gae_lambda: trace decay λ.

    Returns:
        `[T, B]` advantages; 0 on end rows, which have no action.
    """
    continues = has_action(terminated, truncated)
    delta = (reward[1:] + gamma * value[1:] * (~terminated[1:]) - value[:-1]) * continues[:-1]
    decay = gamma * gae_lambda * (continues[1:] & continues[:-1])
    advantage = torch.zeros_like(delta[0])
    advantages = []
    for delta_t, decay_t in zip(reversed(delta.unbind()), reversed(decay.unbind()), strict=True):
        advantage = torch.addcmul(delta_t, decay_t, advantage)  # A_t = δ_t + decay_t A_{t+1}
        advantages.append(advantage)
    return torch.stack(advantages[::-1])
