"""SAC's losses, Haarnoja et al. 2018 (1812.05905), as pure functions.

Values and log probabilities of actions are those of one sampled action, `[N]`. Those of all choices are
`[N, choices]`, and `probability` has the choices' probabilities: then losses are expectations over the choices,
Christodoulou 2019 (1910.07207).

`weight` is the batch's `sample_weight`, so `(weight * x).sum()` is the mean of x over the whole trainer group. The
equations below write it E[x].
"""

from __future__ import annotations

from torch import Tensor


def expectation(values: Tensor, probability: Tensor | None) -> Tensor:
    """Return Σ_a π(a|s) values(a) over all choices, `[N]`; the values themselves for one sampled action.

    Args:
        values: `[N]`, or `[N, choices]`.
        probability: `[N, choices]`; None for one sampled action.
    """
    return values if probability is None else (probability * values).sum(-1)


def critic_target(
    reward: Tensor,
    discount: Tensor,
    next_q: Tensor,
    next_logprob: Tensor,
    alpha: Tensor,
    probability: Tensor | None = None,
) -> Tensor:
    """Return y = r + γ (1 − terminated) E_a'[min_i Q̄_i(s', a') − α log π(a'|s')], eq. 5 and 6 with an ensemble.

    Args:
        reward: `[N]`; with n-step returns the discounted sum of n rewards.
        discount: `[N]`, γ (1 − terminated); see `models.critics.discount`.
        next_q: `[critics, N]`, target critics' values of the next observation s' and a sampled action a' ~ π(·|s');
            or `[critics, N, choices]`, those of all choices.
        next_logprob: `[N]` or `[N, choices]`, log π(a'|s').
        alpha: scalar temperature α.
        probability: `[N, choices]`, π(a'|s') of all choices; None for a sampled action.

    Returns:
        `[N]` targets.
    """
    return reward + discount * expectation(next_q.min(0).values - alpha * next_logprob, probability)


def actor_loss(
    value: Tensor, logprob: Tensor, alpha: Tensor, weight: Tensor, probability: Tensor | None = None
) -> Tensor:
    """Return J_π = E[α log π(a|s) − Q(s, a)], eq. 9, with Q as `value`.

    Args:
        value: `[N]` or `[N, choices]`.
        logprob: `[N]` or `[N, choices]`, log π(a|s).
        alpha: scalar temperature α.
        weight: `[N]`.
        probability: `[N, choices]`, π(a|s) of all choices; None for a sampled action.
    """
    return (weight * expectation(alpha * logprob - value, probability)).sum()


def alpha_loss(log_alpha: Tensor, logprob: Tensor, target_entropy: float | Tensor, weight: Tensor) -> Tensor:
    """Return J(α) = E[−log α (log π(a|s) + H̄)], eq. 18 with log α in place of α.

    H̄ is the target entropy, and `[N]` `logprob` that of a sampled action or its expectation, the negative entropy.
    Learning log α keeps α positive, as in the authors' code.
    """
    return -(weight * log_alpha * (logprob + target_entropy)).sum()
