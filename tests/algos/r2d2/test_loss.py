"""R2D2's rescaling and the priorities of sequences."""

import pytest
import torch
from torch import tensor

from sheeprl.algos.r2d2.loss import rescale, sequence_priority, unscale


def test_rescaling_by_hand():
    """h and its inverse equal hand-computed values."""
    assert rescale(tensor([0.0, 3.0, -8.0]), 0.0).tolist() == [0.0, 1.0, -2.0]
    assert rescale(tensor([3.0]), 0.5).tolist() == [2.5]
    assert unscale(tensor([1.0, -2.0]), 0.0).tolist() == [3.0, -8.0]


@pytest.mark.parametrize("epsilon", [0.0, 1e-3, 0.1])
def test_the_inverse_undoes_the_rescaling(epsilon):
    """h⁻¹(h(x)) = x for small and large numbers of both signs."""
    values = torch.cat([torch.logspace(-4, 4, 30), -torch.logspace(-4, 4, 30), torch.zeros(1)]).double()
    torch.testing.assert_close(unscale(rescale(values, epsilon), epsilon), values)
    small = tensor([1e-3, 1.0, 1e3])
    torch.testing.assert_close(unscale(rescale(small, epsilon), epsilon), small, rtol=1e-3, atol=1e-5)


def test_the_inverse_equals_the_formula_of_the_paper():
    """The computed form equals the published one."""
    epsilon, x = 0.01, torch.linspace(-50, 50, 21).double()
    published = ((1 + 4 * epsilon * (x.abs() + 1 + epsilon)).sqrt() - 1) / (2 * epsilon)
    torch.testing.assert_close(unscale(x, epsilon), x.sign() * (published**2 - 1))


def test_priorities_of_sequences():
    """By hand: η max + (1 − η) mean, over rows with an action."""
    error = tensor([[1.0, 2.0, 9.0], [-3.0, 50.0, 9.0], [2.0, -4.0, 9.0]])
    mask = tensor([[True, True, False], [True, False, False], [True, True, False]])
    # Sequence 1: max 3, mean 2. Sequence 2: max 4, mean 3, without its second row. Sequence 3 has no action.
    assert sequence_priority(error, mask, 0.75).tolist() == [0.75 * 3 + 0.25 * 2, 0.75 * 4 + 0.25 * 3, 0.0]
