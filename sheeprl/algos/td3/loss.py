"""TD3's targets and losses, Fujimoto et al. 2018 (1802.09477), as pure functions.

`weight` is the batch's `sample_weight`, so `(weight * x).sum()` is the mean of x over the whole trainer group. The
equations below write it E[x]. The critics' loss is `models.critics.squared_errors`.
"""

from __future__ import annotations

from torch import Tensor


def smoothed_action(action: Tensor, noise: Tensor, std: float, clip: float) -> Tensor:
    """Return ã = clip(π̄(s') + clip(std · noise, −clip, clip), −1, 1), eq. 14: target policy smoothing.

    Args:
        action: `[N, action_dim]`, the target actor's actions π̄(s').
        noise: `[N, action_dim]`, standard normal.
        std: standard deviation σ̃ of the noise on the actions.
        clip: bound c of the noise on the actions.
    """
    return (action + (std * noise).clamp(-clip, clip)).clamp(-1.0, 1.0)


def critic_target(reward: Tensor, discount: Tensor, next_q: Tensor) -> Tensor:
    """Return y = r + γ (1 − terminated) min_i Q̄_i(s', ã), eq. 10 and 14: clipped double Q-learning.

    Args:
        reward: `[N]`; with n-step returns the discounted sum of n rewards.
        discount: `[N]`, γ (1 − terminated); see `models.critics.discount`.
        next_q: `[2, N]`, target critics' values of the next observation s' and the smoothed action ã.

    Returns:
        `[N]` targets.
    """
    return reward + discount * next_q.min(0).values


def actor_loss(q: Tensor, weight: Tensor) -> Tensor:
    """Return −E[Q_1(s, π(s))], whose gradient is the deterministic policy gradient. `q` is `[2, N]`."""
    return -(weight * q[0]).sum()
