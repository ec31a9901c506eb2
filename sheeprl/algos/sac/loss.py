"""SAC's losses, Haarnoja et al. 2018 (1812.05905), as pure functions.

`weight` is the batch's `sample_weight`, so `(weight * x).sum()` is the mean of x over the whole trainer group. The
equations below write it E[x].
"""

from __future__ import annotations

from torch import Tensor


def critic_target(
    reward: Tensor, terminated: Tensor, next_q: Tensor, next_logprob: Tensor, alpha: Tensor, gamma: float
) -> Tensor:
    """Return y = r + γ (1 − terminated) (min_i Q̄_i(s', a') − α log π(a'|s')), eq. 5 and 6 with twin critics.

    Args:
        reward: `[N]`.
        terminated: `[N]` booleans. Truncated episodes bootstrap, so their flag isn't needed.
        next_q: `[2, N]`, target critics' values of the next observation s' and a sampled action a' ~ π(·|s').
        next_logprob: `[N]`, log π(a'|s').
        alpha: scalar temperature α.
        gamma: discount factor γ.

    Returns:
        `[N]` targets.
    """
    next_value = next_q.min(0).values - alpha * next_logprob
    return reward + gamma * (~terminated) * next_value


def critic_loss(q: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return Σ_i E[(Q_i − y)²], twice J_Q of eq. 5, as is common. `q` is `[2, N]`, `target` `[N]`."""
    return (weight * (q - target) ** 2).sum()


def actor_loss(q: Tensor, logprob: Tensor, alpha: Tensor, weight: Tensor) -> Tensor:
    """Return J_π = E[α log π(a|s) − min_i Q_i(s, a)], eq. 9. `q` is `[2, N]`, `logprob` `[N]`."""
    return (weight * (alpha * logprob - q.min(0).values)).sum()


def alpha_loss(log_alpha: Tensor, logprob: Tensor, target_entropy: float, weight: Tensor) -> Tensor:
    """Return J(α) = E[−log α (log π(a|s) + H̄)], eq. 18 with log α in place of α. `logprob` is `[N]`.

    H̄ is the target entropy. Learning log α keeps α positive, as in the authors' code.
    """
    return -(weight * log_alpha * (logprob + target_entropy)).sum()
