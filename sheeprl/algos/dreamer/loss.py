"""Formulas of all Dreamers, as pure functions.

`weight` is the batch's `sample_weight` `[N]`, so `mean(x, weight)` is the mean of `[*, N]` values over the whole group.
"""

from __future__ import annotations

from torch import Tensor

from sheeprl.models.returns import lambda_returns


def mean(values: Tensor, weight: Tensor) -> Tensor:
    """Return the mean of values `[*, N]` over all axes, weighted by `[N]`."""
    return (weight * values.flatten(0, -2).mean(0)).sum()


def imagined_weights(continues: Tensor, gamma: float) -> Tensor:
    """Return w_t = Π_{i ≤ t} c_i / γ, the discounted probability that state t isn't after an end: `[H + 1, *]`.

    Args:
        continues: `[H + 1, *]`, c_t, the predicted discount factor on arrival at state t.
        gamma: γ. The first state counts fully unless it is terminal.
    """
    return continues.cumprod(0) / gamma


def imagined_returns(reward: Tensor, continues: Tensor, value: Tensor, lambda_: float) -> Tensor:
    """Return the λ-returns of imagined states, in which c_t is the predicted discount factor.

    Args:
        reward: `[H + 1, *]`, predicted on arrival at each state; the first one isn't used.
        continues: `[H + 1, *]`, c_t.
        value: `[H + 1, *]`.
        lambda_: λ.

    Returns:
        `[H, *]`.
    """
    return lambda_returns(reward[1:], continues[1:], value[1:], lambda_)
