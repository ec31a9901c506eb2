"""PPO's formulas. Pure functions; `weight` sums to 1 over a batch, so a weighted sum is a mean over what counts."""

from __future__ import annotations

import torch
from torch import Tensor


def compute_gae(
    reward: Tensor, value: Tensor, terminated: Tensor, truncated: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    """Generalized advantage estimates, Schulman et al. 2016 (1506.02438), eq. 11 to 16, on arrival rows.

    The transition of row t ends on row t + 1: δ_t = r_{t+1} + γ V_{t+1} (1 − terminated_{t+1}) − V_t and
    A_t = δ_t + γ λ (1 − is_last_{t+1}) A_{t+1}. Truncation bootstraps from the value of the end row, termination
    doesn't.

    Args:
        reward: `[T + 1, B]`, received on arriving at each row, the last of which is the tail.
        value: `[T + 1, B]`, V of each row's observation.
        terminated: `[T + 1, B]` booleans.
        truncated: `[T + 1, B]` booleans.
        gamma: discount factor.
        gae_lambda: trace decay.

    Returns:
        `[T, B]`; 0 on end rows, which carry no decision.
    """
    keeps_on = ~(terminated | truncated)
    delta = (reward[1:] + gamma * value[1:] * (~terminated[1:]) - value[:-1]) * keeps_on[:-1]
    decay = gamma * gae_lambda * (keeps_on[1:] & keeps_on[:-1])
    following = torch.zeros_like(delta[0])
    advantages = []
    for delta_t, decay_t in zip(reversed(delta.unbind()), reversed(decay.unbind()), strict=True):
        following = torch.addcmul(delta_t, decay_t, following)
        advantages.append(following)
    return torch.stack(advantages[::-1])


def clipped_policy_loss(
    logprob: Tensor, old_logprob: Tensor, advantage: Tensor, weight: Tensor, clip: Tensor
) -> Tensor:
    """PPO's clipped surrogate, −L^CLIP of Schulman et al. 2017 (1707.06347), eq. 7. All inputs `[N]`, clip a scalar."""
    ratio = torch.exp(logprob - old_logprob)
    clipped = torch.clamp(ratio, 1 - clip, 1 + clip)
    return -(weight * torch.minimum(ratio * advantage, clipped * advantage)).sum()


def value_loss(value: Tensor, returns: Tensor, weight: Tensor) -> Tensor:
    """Mean of (V − R)², L^VF of Schulman et al. 2017, eq. 9. All inputs `[N]`."""
    return (weight * (value - returns) ** 2).sum()


def entropy_loss(entropy: Tensor, weight: Tensor) -> Tensor:
    """Negative mean entropy, −S of Schulman et al. 2017, eq. 9. All inputs `[N]`."""
    return -(weight * entropy).sum()


def approximate_kl(logprob: Tensor, old_logprob: Tensor, weight: Tensor) -> Tensor:
    """Mean of (ratio − 1) − log ratio, an unbiased estimate of KL(old, new) that is never negative. All `[N]`."""
    log_ratio = logprob - old_logprob
    return (weight * (torch.expm1(log_ratio) - log_ratio)).sum()
