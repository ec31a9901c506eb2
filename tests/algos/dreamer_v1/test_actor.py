"""Test DreamerV1's distribution of actions."""

import pytest
import torch
from torch.distributions import Normal

from sheeprl.algos.dreamer_v1.actor import TanhHead
from tests.helpers.dreamer_rows import BOX


def test_the_first_deviation_is_five_and_means_are_bounded():
    """An output of 0 has the mean 0 and the deviation 5, before the hyperbolic tangent."""
    head = TanhHead(BOX, 0.0)
    (row,) = head.parameters(torch.tensor([[0.0, 1000.0, 0.0, 0.0]])).tolist()
    assert row == pytest.approx([0.0, 5.0, 5.0, 5.0], rel=1e-3)
    parameters = torch.tensor([[0.3, -0.2, 0.5, 2.0]])
    torch.testing.assert_close(head.entropy(parameters), Normal(0.0, parameters[:, 2:]).entropy().sum(-1))


def test_players_add_noise_within_the_bounds():
    """Explored actions differ from the sample by noise, greedy ones are the tanh of the mean."""
    parameters = torch.tensor([[0.3, -2.0, 1e-4, 1e-4]]).expand(500, 4)
    quiet, noisy = (
        TanhHead(BOX, noise).act(parameters, "explore", None, torch.Generator().manual_seed(0)) for noise in (0.0, 0.3)
    )
    greedy = TanhHead(BOX, 0.3).act(parameters, "greedy", None, torch.Generator())
    torch.testing.assert_close(greedy, parameters[:, :2].tanh())
    torch.testing.assert_close(quiet, greedy, atol=1e-2, rtol=0)
    assert (noisy - greedy)[:, 0].std().item() == pytest.approx(0.3, rel=0.15) and noisy.abs().max() == 1.0
