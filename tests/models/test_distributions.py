"""Action distributions against torch's, hand-computed values and sample frequencies."""

import math

import pytest
import torch
from torch import tensor
from torch.distributions import Categorical, Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from sheeprl.models import distributions


def test_categorical_equals_torch():
    """Log-probability and entropy equal those of torch's Categorical."""
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 3
    action = torch.arange(50) % 4
    reference = Categorical(logits=logits)
    assert torch.allclose(distributions.categorical_logprob(logits, action), reference.log_prob(action), atol=1e-6)
    assert torch.allclose(distributions.categorical_entropy(logits), reference.entropy(), atol=1e-6)


def test_categorical_equals_hand_computed_values():
    """Log-probability and entropy of unnormalized logits equal hand-computed values."""
    logits = tensor([[1.0, 2.0, 5.0]]).log() + 7  # probabilities 1/8, 2/8, 5/8
    assert distributions.categorical_logprob(logits, tensor([2])).item() == pytest.approx(math.log(0.625), abs=1e-6)
    entropy = -(0.125 * math.log(0.125) + 0.25 * math.log(0.25) + 0.625 * math.log(0.625))
    assert distributions.categorical_entropy(logits).item() == pytest.approx(entropy, abs=1e-5)


def test_categorical_sample_has_the_softmax_frequencies():
    """Samples have the probabilities of the softmax (χ² test)."""
    probabilities = tensor([0.05, 0.15, 0.3, 0.5])
    logits = probabilities.log().expand(40_000, 4)
    noise = distributions.exponential_like(logits, torch.Generator().manual_seed(0))
    action = distributions.categorical_sample(logits, noise)
    counts, expected = action.bincount(minlength=4), 40_000 * probabilities
    assert action.dtype == torch.int64
    assert ((counts - expected) ** 2 / expected).sum() < 12  # 3 degrees of freedom


def test_categorical_sample_handles_extreme_noise():
    """Infinite and tiny noise select valid actions."""
    noise = tensor([[torch.inf, 0.5], [0.5, torch.inf], [0.5, 2**-24], [104.0, 0.5]])
    expected = [1, 0, 0, 0]  # only infinite noise outweighs this difference of logits
    assert distributions.categorical_sample(tensor([[0.0, -1e4]]).expand(4, 2), noise).tolist() == expected


def test_exponential_noise_is_never_0():
    """Exponential noise is positive and has mean 1."""
    noise = distributions.exponential_like(torch.empty(2**24), torch.Generator().manual_seed(0))
    assert noise.min() > 0  # noise of 0 would select an action of probability 0
    assert noise.mean() == pytest.approx(1.0, abs=2e-3)


def test_normal_equals_torch():
    """Log-probability and entropy equal those of torch's Normal."""
    generator = torch.Generator().manual_seed(0)
    mean, log_std, action = (torch.randn(20, 3, generator=generator) for _ in range(3))
    reference = Independent(Normal(mean, log_std.exp()), 1)
    assert torch.allclose(distributions.normal_logprob(action, mean, log_std), reference.log_prob(action), atol=1e-5)
    assert torch.allclose(distributions.normal_entropy(log_std), reference.entropy(), atol=1e-6)


def test_tanh_normal_equals_torch():
    """Samples and log-probabilities equal those of torch's TransformedDistribution."""
    generator = torch.Generator().manual_seed(0)
    mean, log_std, noise = (torch.randn(50, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    action, logprob = distributions.tanh_normal_sample(mean, log_std, noise)
    reference = Independent(TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform()), 1)
    assert torch.allclose(action, torch.tanh(mean + log_std.exp() * noise))
    inside = (action.abs() < 1 - 1e-9).all(-1)  # closer to ±1 the reference's atanh is inaccurate
    assert inside.sum() > 40
    assert torch.allclose(logprob[inside], reference.log_prob(action)[inside], atol=1e-5)


def test_tanh_normal_equals_hand_computed_values():
    """Actions and log-probabilities equal hand-computed values."""
    # u = 0: N(0; 0, 1) = 1/√(2π), tanh' = 1. u = ln 3 / 2: tanh = ½, tanh' = ¾, for two actions with std ½.
    action, logprob = distributions.tanh_normal_sample(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1))
    assert action.item() == 0 and logprob.item() == pytest.approx(-0.5 * math.log(2 * math.pi))
    mean = torch.full((1, 2), math.log(3) / 2)
    action, logprob = distributions.tanh_normal_sample(mean, torch.full((1, 2), math.log(0.5)), torch.zeros(1, 2))
    one = -0.5 * math.log(2 * math.pi) - math.log(0.5) - math.log(0.75)
    assert action[0].tolist() == pytest.approx([0.5, 0.5]) and logprob.item() == pytest.approx(2 * one, abs=1e-5)


def test_tanh_normal_density_integrates_to_one():
    """The density integrates to 1 over (−1, 1)."""
    # The mean of 1 / density over the samples is the length of the interval (−1, 1).
    noise = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, logprob = distributions.tanh_normal_sample(torch.zeros_like(noise), torch.zeros_like(noise), noise)
    assert torch.exp(-logprob).mean().item() == pytest.approx(2.0, rel=0.02)


def test_tanh_normal_is_finite_for_large_means():
    """Samples, log-probabilities and gradients are finite for saturated actions."""
    mean = tensor([[30.0], [-30.0]], requires_grad=True)
    action, logprob = distributions.tanh_normal_sample(mean, torch.full((2, 1), -20.0), torch.ones(2, 1))
    logprob.sum().backward()
    assert action.isfinite().all() and logprob.isfinite().all() and mean.grad.isfinite().all()
