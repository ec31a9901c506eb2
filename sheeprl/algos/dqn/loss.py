"""Losses and targets of Q-learning, as pure functions.

Losses are per sample, `[N]`; the algorithm weighs them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def huber(error: Tensor, delta: float = 1.0) -> Tensor:
    """Return ½ e² for |e| ≤ δ and δ (|e| − ½ δ) beyond, elementwise: squared errors with clipped gradients."""
    size = error.abs()
    return torch.where(size <= delta, 0.5 * error * error, delta * (size - 0.5 * delta))


def env_epsilon(place: Tensor, base: float, power: float) -> Tensor:
    """Return ε_i = base^(1 + power i / (N − 1)), Horgan et al. 2018 (1803.00933), section 4.1.

    Args:
        place: `[B]`, i / (N − 1) for environment i of N, from 0 to 1.
        base: ε of the first environment.
        power: α, the spread.
    """
    return base ** (1.0 + power * place)


def q_target(reward: Tensor, discount: Tensor, next_q: Tensor) -> Tensor:
    """Return y = r + γ (1 − terminated) Q̄(s', a'), Mnih et al. 2015.

    Args:
        reward: `[N]`; with n-step returns the discounted sum of n rewards.
        discount: `[N]`, γ (1 − terminated); see `models.critics.discount`.
        next_q: `[N]`, target network's value of the next observation s' and the chosen action a'.

    Returns:
        `[N]` targets.
    """
    return reward + discount * next_q


def project(probabilities: Tensor, reward: Tensor, discount: Tensor, support: Tensor) -> Tensor:
    """Return the projection of the distribution of r + γ Z on the atoms, Bellemare et al. 2017 (1707.06887), eq. 7.

    m_i = Σ_j clip(1 − |clip(r + γ z_j, z_1, z_K) − z_i| / Δz, 0, 1) p_j

    Args:
        probabilities: `[N, K]`, p_j of the next observation's return Z.
        reward: `[N]`.
        discount: `[N]`, γ (1 − terminated).
        support: `[K]` atoms z_i, evenly spaced.

    Returns:
        `[N, K]` probabilities.
    """
    width = (support[-1] - support[0]) / (len(support) - 1)
    moved = (reward[:, None] + discount[:, None] * support).clamp(support[0], support[-1])
    shares = (1.0 - (moved[:, None, :] - support[:, None]).abs() / width).clamp(0.0, 1.0)  # [N, i, j]
    return (shares * probabilities[:, None, :]).sum(-1)


def categorical_divergence(log_probabilities: Tensor, target: Tensor) -> Tensor:
    """Return KL(m ‖ p) = Σ_i m_i (log m_i − log p_i) of target m and prediction p: `[N, K]` each to `[N]`.

    Its gradient is that of the cross-entropy. It is 0 for a perfect prediction, so it serves as a priority.
    """
    return (torch.xlogy(target, target) - target * log_probabilities).sum(-1)


def midpoints(count: int, like: Tensor) -> Tensor:
    """Return the midpoints τ_i = (2 i + 1) / (2 K) of K = `count` equal parts of [0, 1]: `[K]`, as `like`'s numbers."""
    return (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) / count


def quantile_huber(quantiles: Tensor, target: Tensor, fraction: Tensor | None = None, delta: float = 1.0) -> Tensor:
    """Return Σ_i mean_j |τ_i − 1{u_ij < 0}| L_δ(u_ij) / δ, Dabney et al. 2018 (1710.10044), eq. 10.

    u_ij = target_j − quantiles_i, and L_δ is the Huber loss.

    Args:
        quantiles: `[N, K]`, of the trained network.
        target: `[N, M]` samples of the target distribution.
        fraction: `[N, K]` fractions τ_i of the quantiles; None for midpoints.
        delta: δ, the width of the quadratic part.
    """
    fraction = midpoints(quantiles.shape[-1], quantiles) if fraction is None else fraction
    error = target[:, None, :] - quantiles[:, :, None]  # [N, i, j]
    tilt = (fraction[..., :, None] - (error.detach() < 0).to(error.dtype)).abs()
    return (tilt * huber(error, delta) / delta).mean(-1).sum(-1)
