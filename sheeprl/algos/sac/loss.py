"""SAC's losses, Haarnoja et al. 2018 (1812.05905). Pure functions; `weight` sums to 1 over a batch."""

from __future__ import annotations

from torch import Tensor


def critic_target(
    reward: Tensor, terminated: Tensor, next_q: Tensor, next_logprob: Tensor, alpha: Tensor, gamma: float
) -> Tensor:
    """Y = r + γ (1 − terminated) (min_i Q_i(s', a') − α log π(a'|s')), eq. 5 and 6 with twin critics.

    Args:
        reward: `[N]`.
        terminated: `[N]` booleans; truncation is no reason not to bootstrap.
        next_q: `[2, N]`, the target critics on the next observation and an action drawn there.
        next_logprob: `[N]`.
        alpha: scalar temperature.
        gamma: discount factor.
    """
    next_value = next_q.min(0).values - alpha * next_logprob
    return reward + gamma * (~terminated) * next_value


def critic_loss(q: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Σ_i mean (Q_i − y)², twice J_Q of eq. 5 for each critic, as everybody takes it. q `[2, N]`, target `[N]`."""
    return (weight * (q - target) ** 2).sum()


def actor_loss(q: Tensor, logprob: Tensor, alpha: Tensor, weight: Tensor) -> Tensor:
    """J_π = mean(α log π(a|s) − min_i Q_i(s, a)), eq. 9. q `[2, N]`, logprob `[N]`."""
    return (weight * (alpha * logprob - q.min(0).values)).sum()


def alpha_loss(log_alpha: Tensor, logprob: Tensor, target_entropy: float, weight: Tensor) -> Tensor:
    """J(α) = mean(−log α (log π(a|s) + target entropy)): eq. 18 with log α for α, which keeps α positive."""
    return -(weight * log_alpha * (logprob + target_entropy)).sum()
