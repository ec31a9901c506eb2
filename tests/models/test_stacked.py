"""Test stacked MLPs."""

import torch

from sheeprl.models.mlp import mlp
from sheeprl.models.stacked import Ensemble, apply_stacked, disagreement, stacked_parameters


def test_stacked_networks_are_separate_networks():
    """The outputs are those of each network by itself."""
    networks = [mlp(3, (5, 4), 2, "elu") for _ in range(3)]
    x = torch.randn(7, 3)
    stacked = apply_stacked(x, *stacked_parameters(networks), torch.nn.ELU())
    torch.testing.assert_close(stacked, torch.stack([network(x) for network in networks]))


def test_an_ensemble_disagrees_by_its_deviation():
    """Members differ from the start; the disagreement is the mean standard deviation, with a finite gradient at 0."""
    ensemble = Ensemble(4, 3, 8, 2, 5)
    outputs = ensemble(torch.randn(2, 6, 3))
    assert outputs.shape == (4, 2, 6, 5)
    torch.testing.assert_close(disagreement(outputs), outputs.std(0, correction=0).mean(-1))
    assert (disagreement(outputs) > 0).all()
    equal = torch.zeros(4, 2, requires_grad=True)
    disagreement(equal).sum().backward()
    assert equal.grad.isfinite().all()
