"""PQN's returns and loss, as pure functions."""

from __future__ import annotations

from torch import Tensor

from sheeprl.algos.returns import compute_gae


def q_lambda_returns(
    reward: Tensor, next_best: Tensor, terminated: Tensor, truncated: Tensor, gamma: float, q_lambda: float
) -> Tensor:
    """Return Q(λ) returns, Gallici et al. 2025 (2407.04811), eq. 6, with bootstrapping of truncated episodes.

    R_t = r_{t+1} + γ (1 − terminated_{t+1}) (λ R_{t+1} + (1 − λ) v_{t+1}) with v = max_a Q(s, a). At the end of an
    episode and of the rollout, v takes the place of R. These are TD(λ) returns of the values v, which equal their
    generalized advantage estimates plus v.

    Args:
        reward: `[T + 1, B]`, received on arrival at each row; the last row is the bootstrap row.
        next_best: `[T + 1, B]`, v of each row's observation.
        terminated: `[T + 1, B]` booleans.
        truncated: `[T + 1, B]` booleans.
        gamma: discount factor γ.
        q_lambda: trace decay λ.

    Returns:
        `[T, B]` returns; meaningless on end rows, which have no action.
    """
    return next_best[:-1] + compute_gae(reward, next_best, terminated, truncated, gamma, q_lambda)


def q_loss(q: Tensor, returns: Tensor, weight: Tensor) -> Tensor:
    """Return E[½ (Q(s, a) − R)²]. Inputs are `[N]`, `weight` is the batch's `sample_weight`."""
    return 0.5 * (weight * (q - returns) ** 2).sum()
