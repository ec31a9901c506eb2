"""SAC's losses, Haarnoja et al. 2018 (1812.05905), as pure functions.

`weight` is the batch's `sample_weight`, so `(weight * x).sum()` is the mean of x over the whole trainer group. The
equations below write it E[x].
"""

from __future__ import annotations

from torch import Tensor


def critic_target(reward: Tensor, discount: Tensor, next_q: Tensor, next_logprob: Tensor, alpha: Tensor) -> Tensor:
    """Return y = r + γ (1 − terminated) (min_i Q̄_i(s', a') − α log π(a'|s')), eq. 5 and 6 with an ensemble.

    Args:
        reward: `[N]`; with n-step returns the discounted sum of n rewards.
        discount: `[N]`, γ (1 − terminated); see `models.critics.discount`.
        next_q: `[critics, N]`, target critics' values of the next observation s' and a sampled action a' ~ π(·|s').
        next_logprob: `[N]`, log π(a'|s').
        alpha: scalar temperature α.

    Returns:
        `[N]` targets.
    """
    return reward + discount * (next_q.min(0).values - alpha * next_logprob)


def actor_loss(value: Tensor, logprob: Tensor, alpha: Tensor, weight: Tensor) -> Tensor:
    """Return J_π = E[α log π(a|s) − Q(s, a)], eq. 9, with Q as `value`. `value` and `logprob` are `[N]`."""
    return (weight * (alpha * logprob - value)).sum()


def alpha_loss(log_alpha: Tensor, logprob: Tensor, target_entropy: float, weight: Tensor) -> Tensor:
    """Return J(α) = E[−log α (log π(a|s) + H̄)], eq. 18 with log α in place of α. `logprob` is `[N]`.

    H̄ is the target entropy. Learning log α keeps α positive, as in the authors' code.
    """
    return -(weight * log_alpha * (logprob + target_entropy)).sum()
