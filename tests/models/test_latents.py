"""Test stochastic states against torch's distributions and hand-computed values."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from sheeprl.models.latents import Categoricals, Gaussians, balanced_kl, inverse_cdf_sample, mixed_logprob

LATENTS = Categoricals(3, 4, mix=0.1)


def mixed(logits):
    """Return probabilities of which a tenth is uniform."""
    return 0.9 * logits.view(-1, 3, 4).softmax(-1) + 0.1 / 4


def test_uniform_part():
    """Probabilities are 99 % of the softmax and 1 % uniform."""
    probability = mixed_logprob(torch.tensor([100.0, 0.0]), 0.01).exp()
    torch.testing.assert_close(probability, torch.tensor([0.995, 0.005]))


def test_inverse_cdf_by_hand():
    """A uniform number chooses the class whose interval contains it."""
    probability = torch.tensor([0.25, 0.0, 0.5, 0.25]).expand(5, 4)
    uniform = torch.tensor([0.0, 0.2, 0.25, 0.7, 0.8])
    assert inverse_cdf_sample(probability, uniform).tolist() == [0, 0, 2, 2, 3]


def test_sampled_frequencies_are_the_probabilities():
    """Frequencies over evenly spread uniform numbers equal the probabilities."""
    probability = torch.tensor([0.1, 0.6, 0.3])
    uniform = (torch.arange(1000) + 0.5) / 1000
    counts = inverse_cdf_sample(probability.expand(1000, 3), uniform).bincount()
    assert counts.tolist() == [100, 600, 300]


def test_samples_are_one_hot_with_straight_through_gradients():
    """The value is one-hot, and the gradient that of the probabilities."""
    logits = torch.randn(5, 12, requires_grad=True)
    sample = LATENTS.sample(logits, torch.rand(5, 3))
    assert ((sample == 0) | (sample == 1)).all() and (sample.view(5, 3, 4).sum(-1) == 1).all()
    weight = torch.randn(5, 12)
    (gradient,) = torch.autograd.grad((sample * weight).sum(), logits)
    (expected,) = torch.autograd.grad((mixed(logits) * weight.view(5, 3, 4)).sum(), logits)
    torch.testing.assert_close(gradient, expected)


def test_divergence_and_entropy_of_categoricals():
    """Both equal torch's, summed over the categoricals."""
    p, q = torch.randn(5, 12), torch.randn(5, 12)
    mine, other = (Independent(Categorical(probs=mixed(each)), 1) for each in (p, q))
    torch.testing.assert_close(LATENTS.kl(p, q), kl_divergence(mine, other))
    torch.testing.assert_close(LATENTS.entropy(p), mine.entropy())
    assert LATENTS.kl(p, p).abs().max() < 1e-6


@pytest.mark.parametrize("latents", [LATENTS, Gaussians(6)])
def test_divergences_stop_the_gradient_of_one_side(latents):
    """Both have the value of the divergence; each has the gradient of one distribution."""
    p, q = (torch.randn(5, 12, requires_grad=True) for _ in range(2))
    forward, backward = latents.divergences(p, q)
    torch.testing.assert_close((forward, backward), (latents.kl(p, q),) * 2)
    expected = torch.autograd.grad(latents.kl(p, q).sum(), [p, q])
    assert torch.autograd.grad(forward.sum(), p, retain_graph=True, allow_unused=True) == (None,)
    assert torch.autograd.grad(backward.sum(), q, retain_graph=True, allow_unused=True) == (None,)
    found = torch.autograd.grad(backward.sum(), p) + torch.autograd.grad(forward.sum(), q)
    torch.testing.assert_close(found, expected)


def test_divergence_and_entropy_of_gaussians():
    """Both equal torch's."""
    latents = Gaussians(3, least=0.1)
    p, q = torch.randn(5, 6), torch.randn(5, 6)
    normals = [Independent(Normal(*latents.moments(each)), 1) for each in (p, q)]
    torch.testing.assert_close(latents.kl(p, q), kl_divergence(*normals))
    torch.testing.assert_close(latents.entropy(p), normals[0].entropy())
    assert latents.moments(torch.zeros(1, 6))[1][0, 0].item() == pytest.approx(math.log(2) + 0.1)


def test_stored_states_are_restored():
    """A state is stored as one byte per categorical."""
    sample = LATENTS.sample(torch.randn(2, 5, 12), torch.rand(2, 5, 3))
    stored = LATENTS.stored(sample)
    assert stored.dtype == torch.uint8 and stored.shape == (2, 5, 3)
    torch.testing.assert_close(LATENTS.restored(stored), sample)


def test_free_nats_stop_the_gradient():
    """Each term has its coefficient; below the free nats its gradient is 0."""
    forward = torch.tensor([0.5, 3.0], requires_grad=True)
    backward = torch.tensor([4.0, 0.2], requires_grad=True)
    loss = balanced_kl(forward, backward, 1.0, 0.1, free=1.0)
    torch.testing.assert_close(loss.detach(), torch.tensor([1.0 + 0.4, 3.0 + 0.1]))
    loss.sum().backward()
    assert forward.grad.tolist() == [0.0, 1.0] and backward.grad.tolist() == pytest.approx([0.1, 0.0])
