"""DreamerV3's own formulas, as pure functions; `weight` is the batch's `sample_weight` `[N]`."""

from __future__ import annotations

from torch import Tensor

from sheeprl.algos.dreamer.loss import mean
from sheeprl.models.returns import lambda_returns


def replayed_returns(
    reward: Tensor, terminated: Tensor, is_last: Tensor, bootstrap: Tensor, gamma: float, lambda_: float
) -> Tensor:
    """Return the λ-returns of replayed rows, with imagined returns as the values.

    Args:
        reward: `[K, N]`, received on arrival.
        terminated: `[K, N]` booleans.
        is_last: `[K, N]` booleans, true on end rows, whose return doesn't reach into the next episode.
        bootstrap: `[K, N]`, the return imagined from each row.
        gamma: discount factor.
        lambda_: λ.

    Returns:
        `[K − 1, N]`; meaningless on end rows.
    """
    discount = gamma * (~terminated[1:]).to(reward.dtype)
    return lambda_returns(reward[1:], discount, bootstrap[1:], lambda_ * (~is_last[1:]).to(reward.dtype))


def policy_loss(
    logprob: Tensor, advantage: Tensor, entropy: Tensor, reached: Tensor, coefficient: float, weight: Tensor
) -> Tensor:
    """Return −E[w (sg(A) log π(a|s) + η H)], eq. 11. Inputs are `[H, K, N]`.

    Args:
        logprob: log π of the imagined actions.
        advantage: A, the normalized advantages.
        entropy: H of the policy.
        reached: w, the probability that imagination reaches the state.
        coefficient: η.
        weight: `[N]`.
    """
    gain = advantage.detach() * logprob + coefficient * entropy
    return -mean(reached.detach() * gain, weight)
