"""Test optimizers against steps computed by hand."""

import pytest
import torch
from torch import nn

from sheeprl.models.optimizers import LaProp, RMSpropTF


def test_two_steps_of_tensorflows_rmsprop():
    """The mean of squares begins with 1, and epsilon is inside of the root."""
    weight = nn.Parameter(torch.tensor([2.0, -1.0]))
    optimizer = RMSpropTF([weight], lr=0.5, alpha=0.75, eps=0.25)
    weight.grad = torch.tensor([3.0, 0.0])
    optimizer.step()
    # v = 0.75 + 0.25 · 9 = 3 and 0.75
    assert weight.tolist() == pytest.approx([2 - 0.5 * 3 / 3.25**0.5, -1.0])
    first = weight[0].item()
    weight.grad = torch.tensor([-1.0, 2.0])
    optimizer.step()
    # v = 0.75 · 3 + 0.25 = 2.5 and 0.75 · 0.75 + 0.25 · 4 = 1.5625
    assert weight.tolist() == pytest.approx([first + 0.5 / 2.75**0.5, -1 - 0.5 * 2 / 1.8125**0.5])
    assert optimizer.state[weight]["square_avg"].tolist() == pytest.approx([2.5, 1.5625])


def test_weight_decay_adds_to_the_gradient():
    """The L2 penalty's gradient λ θ is part of the gradient; a parameter without a gradient stays."""
    weight, unused = nn.Parameter(torch.tensor([2.0])), nn.Parameter(torch.tensor([1.0]))
    weight.grad = torch.tensor([1.0])
    RMSpropTF([weight, unused], lr=0.1, alpha=0.5, eps=0.0, weight_decay=0.5).step()
    assert weight.item() == pytest.approx(2 - 0.1 * 2 / 2.5**0.5)
    assert unused.item() == 1.0


def test_two_steps_of_laprop():
    """The gradient is divided by the root of its mean square first; momentum follows, both without bias."""
    weight = nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64))
    optimizer = LaProp([weight], lr=0.5, betas=(0.5, 0.75))
    weight.grad = torch.tensor([3.0, 0.0], dtype=torch.float64)
    optimizer.step()
    # v̂ = 9, so the normalized gradient is 1, and its mean without bias is 1; a gradient of 0 changes nothing
    assert weight.tolist() == pytest.approx([2 - 0.5, -1.0])
    weight.grad = torch.tensor([-1.0, 2.0], dtype=torch.float64)
    optimizer.step()
    v = [0.75 * 2.25 + 0.25, 0.25 * 4]
    normal = [-1 / (v[0] / 0.4375) ** 0.5, 2 / (v[1] / 0.4375) ** 0.5]
    m = [0.5 * 0.5 + 0.5 * normal[0], 0.5 * normal[1]]
    assert weight.tolist() == pytest.approx([1.5 - 0.5 * m[0] / 0.75, -1 - 0.5 * m[1] / 0.75])
