"""Test adaptive gradient clipping against a loop over the parameters."""

import torch

from sheeprl.learning.step import adaptively_clipped


def test_each_parameter_is_clipped_by_its_own_norm():
    """Norms are limited to a fraction of the parameter's norm, and of 0.001 for a parameter of 0."""
    parameters = [torch.tensor([3.0, 4.0]), torch.zeros(2), torch.tensor([1.0])]
    gradients = [torch.tensor([6.0, 8.0]), torch.tensor([0.0, 5.0]), torch.tensor([0.1])]
    clipped = adaptively_clipped(torch.cat(gradients), torch.cat(parameters), [2, 2, 1], 0.3)
    # norms 10 > 0.3 · 5, 5 > 0.3 · 0.001, and 0.1 < 0.3 · 1, which is unchanged
    torch.testing.assert_close(clipped, torch.tensor([0.9, 1.2, 0.0, 3e-4, 0.1]))


def test_gradients_of_zero_stay():
    """No division by zero."""
    assert not adaptively_clipped(torch.zeros(3), torch.zeros(3), [1, 2], 0.3).any()
