"""Test functions of rows that are computed in parts."""

import pytest
import torch

from sheeprl.models import parts
from sheeprl.models.normed import normed_mlp
from sheeprl.models.parts import in_parts, part_length


@pytest.mark.parametrize(
    ("shape", "length"), [((16, 64, 16, 3), 1), ((16, 4, 16, 3), 16), ((5, 3000, 3), 1), ((4, 3), 1024)]
)
def test_a_part_has_about_1024_rows(shape, length):
    """Parts hold whole entries of the first axis, at least one."""
    assert part_length(torch.empty(shape)) == length


def test_other_devices_have_one_part():
    """A GPU is faster with all rows at once."""
    assert part_length(torch.empty(50, 1000, 1000, 1, device="meta")) == 50


def test_results_and_gradients_are_those_of_all_rows(monkeypatch):
    """The parts, of which the last one may be shorter, give the same results and gradients as all rows at once."""
    monkeypatch.setattr(parts, "PART", 8)
    network, x = normed_mlp(3, 8, 2, 5), torch.randn(7, 4, 3)
    lengths = []
    found = in_parts(lambda part: lengths.append(len(part)) or network(part).sum(-1), x)
    expected = network(x).sum(-1)
    assert lengths == [2, 2, 2, 1]
    torch.testing.assert_close(found, expected)
    weights = list(network.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), weights), torch.autograd.grad(expected.square().sum(), weights)
    )
