"""Test truncated normals against numerical integrals and torch's normal."""

import math

import pytest
import torch
from torch.distributions import Normal

from sheeprl.algos.dreamer_v2.actor import TruncatedHead, truncated_entropy, truncated_logprob, truncated_sample
from tests.helpers.dreamer_rows import BOX, CASES

MEAN, DEVIATION = torch.tensor([[0.3], [-0.9]], dtype=torch.float64), torch.tensor([[0.5], [1.2]], dtype=torch.float64)


def test_the_density_integrates_to_one_and_gives_the_entropy():
    """Sums over a fine grid equal 1 and the entropy."""
    grid = torch.linspace(-1, 1, 200_001, dtype=torch.float64).view(-1, 1, 1)
    logprob = truncated_logprob(grid, MEAN, DEVIATION)
    assert torch.trapezoid(logprob.exp(), grid.squeeze(-1), dim=0).tolist() == pytest.approx([1.0, 1.0], rel=1e-6)
    entropy = torch.trapezoid(-logprob.exp() * logprob, grid.squeeze(-1), dim=0)
    torch.testing.assert_close(truncated_entropy(MEAN, DEVIATION), entropy, rtol=1e-5, atol=1e-8)


def test_samples_invert_the_distribution_function():
    """The share of the mass below a sample is the uniform number, and gradients are finite at both ends."""
    uniform = torch.tensor([[0.2], [0.9]], dtype=torch.float64)
    sample, normal = truncated_sample(MEAN, DEVIATION, uniform), Normal(MEAN, DEVIATION)
    low, high = (normal.cdf(torch.full_like(MEAN, end)) for end in (-1.0, 1.0))
    torch.testing.assert_close((normal.cdf(sample) - low) / (high - low), uniform)
    mean = torch.tensor([-1.0, 1.0], requires_grad=True)
    ends = truncated_sample(mean, torch.tensor([0.1, 0.1]), torch.tensor([0.0, 1.0 - 2**-24]))
    assert (ends.abs() <= 1).all() and torch.autograd.grad(ends.sum(), mean)[0].isfinite().all()


def test_parameters_of_the_network():
    """Means are in [-1, 1], the first deviation is 1.1, and choices have no uniform part."""
    head = TruncatedHead(BOX)
    assert head.parameters(torch.tensor([[100.0, 0.0, 0.0, 0.0]])).tolist()[0] == pytest.approx([1.0, 0.0, 1.1, 1.1])
    discrete = TruncatedHead(CASES["discrete, pixels"].action)
    logits = torch.tensor([[1.0, 2.0, -50.0]])
    torch.testing.assert_close(discrete.parameters(logits), logits.log_softmax(-1))
    assert discrete.entropy(torch.full((1, 3), -math.log(3.0))).item() == pytest.approx(math.log(3.0))
