"""PPO's losses and the scale of its rewards, as pure functions.

`weight` is the batch's `sample_weight`, so `(weight * x).sum()` is the mean of x over the whole trainer group. The
equations below write it E[x].
"""

from __future__ import annotations

import torch
from torch import Tensor

NO_KL = 1e-8  # largest divergence that rounding of equal policies causes


def discounted_return(previous: Tensor, reward: Tensor, is_first: Tensor, gamma: float) -> Tensor:
    """Return G_t = γ G_{t−1} (1 − is_first_t) + r_t, the discounted sum of an episode's past rewards.

    Inputs are `[N]`: the previous sum, the reward received on arrival, and booleans. The deviation of G is the scale of
    returns by which rewards are divided.
    """
    return gamma * previous * (~is_first) + reward


def clipped_policy_loss(
    logprob: Tensor, old_logprob: Tensor, advantage: Tensor, weight: Tensor, clip: Tensor
) -> Tensor:
    """Return −L^CLIP = −E[min(ρ A, clip(ρ, 1 − ε, 1 + ε) A)], Schulman et al. 2017 (1707.06347), eq. 7.

    ρ = π(a|s) / π_old(a|s) is the probability ratio. Inputs are `[N]`, `clip` is the scalar ε.
    """
    ratio = torch.exp(logprob - old_logprob)
    clipped_ratio = torch.clamp(ratio, 1 - clip, 1 + clip)
    return -(weight * torch.minimum(ratio * advantage, clipped_ratio * advantage)).sum()


def value_loss(value: Tensor, returns: Tensor, weight: Tensor) -> Tensor:
    """Return L^VF = E[(V − R)²], Schulman et al. 2017, eq. 9. Inputs are `[N]`."""
    return (weight * (value - returns) ** 2).sum()


def clipped_value_loss(value: Tensor, old_value: Tensor, returns: Tensor, weight: Tensor, clip: float) -> Tensor:
    """Return E[max((V − R)², (V_clip − R)²)] with V_clip = V_old + clip(V − V_old, −ε, ε). Inputs are `[N]`.

    V_old is the value before the round's first gradient step. The loss is that of OpenAI Baselines' PPO2, without its
    factor ½.
    """
    clipped = old_value + torch.clamp(value - old_value, -clip, clip)
    return (weight * torch.maximum((value - returns) ** 2, (clipped - returns) ** 2)).sum()


def entropy_loss(entropy: Tensor, weight: Tensor) -> Tensor:
    """Return −E[S], the negative entropy bonus, Schulman et al. 2017, eq. 9. Inputs are `[N]`."""
    return -(weight * entropy).sum()


def approximate_kl(logprob: Tensor, old_logprob: Tensor, weight: Tensor) -> Tensor:
    """Return E[(ρ − 1) − log ρ], an unbiased, nonnegative estimate of KL(π_old, π). Inputs are `[N]`.

    It is the estimator k3 of Schulman 2020, "Approximating KL Divergence".
    """
    log_ratio = logprob - old_logprob
    return (weight * (torch.expm1(log_ratio) - log_ratio)).sum()


def adapted_scale(scale: Tensor, kl: Tensor, desired_kl: float, low: float, high: float) -> Tensor:
    """Return the factor on the learning rate after a minibatch of divergence `kl`; all tensors are scalars.

    It is divided by 1.5 where kl > 2 · desired_kl, multiplied by 1.5 where 0 < kl < desired_kl / 2, and limited to
    [low, high]. This is the rule of rsl_rl (Rudin et al. 2022, 2109.11978). A divergence of at most `NO_KL` counts as
    0: that of a round's first minibatch consists of rounding errors, which must not decide.
    """
    slower = torch.clamp(scale / 1.5, min=low)
    faster = torch.clamp(scale * 1.5, max=high)
    return torch.where(kl > 2 * desired_kl, slower, torch.where((kl > NO_KL) & (kl < desired_kl / 2), faster, scale))
