"""Test λ-returns against hand-computed values."""

import torch

from sheeprl.models.returns import lambda_returns


def test_lambda_returns_by_hand():
    """Returns mix the value and the return of the next state, and end with the value of the last one."""
    reward, value = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[10.0], [20.0], [30.0]])
    discount = torch.tensor([[0.5], [0.0], [0.8]])
    last = 3 + 0.8 * 30
    middle = 2.0  # the episode ended with a terminal state
    first = 1 + 0.5 * (0.25 * 10 + 0.75 * middle)
    torch.testing.assert_close(lambda_returns(reward, discount, value, 0.75), torch.tensor([[first], [middle], [last]]))


def test_a_mix_of_zero_bootstraps_from_the_value():
    """At a truncated row, the value replaces the return, which belongs to the next episode."""
    reward, value = torch.ones(2, 1), torch.tensor([[10.0], [20.0]])
    mix = torch.tensor([[0.0], [0.9]])
    returns = lambda_returns(reward, torch.full((2, 1), 0.5), value, mix)
    torch.testing.assert_close(returns, torch.tensor([[1 + 0.5 * 10], [1 + 0.5 * 20]]))
