"""Stochastic states of world models: vectors of categoricals or of normals, as functions of a network's output.

A sample takes its noise as a tensor, so every function is pure. Gradients pass through a sample to the output.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sheeprl.models.precision import full_precision


def inverse_cdf_sample(probability: Tensor, uniform: Tensor) -> Tensor:
    """Sample from categoricals by the inverse of the distribution function: one uniform number per sample.

    Args:
        probability: `[*, n]`.
        uniform: `[*]`, uniform in [0, 1).

    Returns:
        `[*]` int64, the number of cumulated probabilities, without the last one, that are at most `uniform`.
    """
    cumulated = probability[..., :-1].detach().cumsum(-1)
    return (uniform.unsqueeze(-1) >= cumulated).sum(-1)


def one_hot_sample(probability: Tensor, uniform: Tensor, mix: float) -> Tensor:
    """Return one-hot samples of categoricals with a uniform part.

    Args:
        probability: `[*, n]`, without the uniform part.
        uniform: noise `[*]`, uniform in [0, 1).
        mix: the uniform part.

    Returns:
        `[*, n]`.
    """
    classes = probability.shape[-1]
    mixed = (1.0 - mix) * probability + mix / classes if mix else probability
    chosen = inverse_cdf_sample(mixed, uniform).unsqueeze(-1)
    return (chosen == torch.arange(classes, device=chosen.device)).to(probability.dtype)


class _StraightThrough(torch.autograd.Function):
    """One-hot sample with the gradient of the probabilities, as one node of autograd."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, uniform: Tensor, mix: float) -> Tensor:
        """Sample from categoricals `[*, n]` by noise `[*]`."""
        probability = probabilities(logits)
        ctx.save_for_backward(probability)
        ctx.share = 1.0 - mix
        return one_hot_sample(probability, uniform, mix)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of the logits: (1 − mix) p (g − Σ p g)."""
        (probability,) = ctx.saved_tensors
        weighted = gradients[0] * probability
        by_logits = torch.addcmul(weighted, probability, weighted.sum(-1, keepdim=True), value=-1.0)
        return by_logits.mul_(ctx.share), None, None


def probabilities(logits: Tensor) -> Tensor:
    """Return softmax(logits): `[*, n]` to `[*, n]`.

    torch's softmax takes about 90 ns per row on a CPU, which for the short rows of a stochastic state is five times as
    long as its parts.
    """
    powers = (logits - logits.detach().amax(-1, keepdim=True)).exp()
    return powers / powers.sum(-1, keepdim=True)


def mixed_logprob(logits: Tensor, mix: float) -> Tensor:
    """Return log((1 − mix) softmax(logits) + mix / n): `[*, n]` to `[*, n]`."""
    logits = full_precision(logits)
    if not mix:
        return logits.log_softmax(-1)
    return ((1.0 - mix) * probabilities(logits) + mix / logits.shape[-1]).log()


def balanced_kl(forward: Tensor, backward: Tensor, prior_scale: float, posterior_scale: float, free: float) -> Tensor:
    """Return the KL loss with free nats: prior_scale · max(free, KL_1) + posterior_scale · max(free, KL_2).

    Args:
        forward: KL(sg(posterior) ‖ prior), which trains the prior, `[*]`.
        backward: KL(posterior ‖ sg(prior)), which trains the posterior, `[*]`.
        prior_scale: coefficient of the first term.
        posterior_scale: coefficient of the second one.
        free: free nats. A term below has no gradient.
    """
    return prior_scale * forward.clamp_min(free) + posterior_scale * backward.clamp_min(free)


class Latents(ABC):
    """Kind of stochastic state.

    Attributes:
        size: length of the vector that networks get.
        outputs: length of the network output that parametrizes the distribution.
        noise: shape of the noise of one sample.
    """

    size: int
    outputs: int
    noise: tuple[int, ...]

    @abstractmethod
    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw noise `[*shape, *noise]` for samples."""

    @abstractmethod
    def sample(self, output: Tensor, noise: Tensor) -> Tensor:
        """Return samples `[*, size]` of distributions `[*, outputs]`, with the gradient of the output."""

    @abstractmethod
    def stored(self, sample: Tensor) -> Tensor:
        """Return samples in the form in which the replay buffer stores them."""

    @abstractmethod
    def restored(self, stored: Tensor) -> Tensor:
        """Return stored samples as vectors `[*, size]`."""

    @abstractmethod
    def kl(self, output: Tensor, other: Tensor) -> Tensor:
        """Return KL(output ‖ other): `[*, outputs]` to `[*]`."""

    def divergences(self, posterior: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """Return KL(sg(posterior) ‖ prior) and KL(posterior ‖ sg(prior)), where sg stops the gradient: `[*]` each."""
        return self.kl(posterior.detach(), prior), self.kl(posterior, prior.detach())

    @abstractmethod
    def entropy(self, output: Tensor) -> Tensor:
        """Return the entropy: `[*, outputs]` to `[*]`."""


class Categoricals(Latents):
    """Vector of categoricals, whose samples are one-hot with straight-through gradients, Bengio et al. 2013.

    Args:
        count: number of categoricals.
        classes: classes of each.
        mix: fraction of a uniform distribution in the probabilities.
    """

    def __init__(self, count: int, classes: int, mix: float = 0.01) -> None:
        """Compute the sizes."""
        self.count, self.classes, self.mix = count, classes, mix
        self.size = self.outputs = count * classes
        self.noise = (count,)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw uniform numbers."""
        return torch.rand(*shape, *self.noise, generator=generator, device=generator.device)

    def _split(self, joined: Tensor) -> Tensor:
        """Return the parts of the categoricals: `[*, outputs]` to `[*, count, classes]`."""
        return joined.view(*joined.shape[:-1], self.count, self.classes)

    def logprob(self, output: Tensor) -> Tensor:
        """Return the log probabilities `[*, count, classes]`."""
        return mixed_logprob(self._split(output), self.mix)

    def sample(self, output: Tensor, noise: Tensor) -> Tensor:
        """Return joined one-hot vectors, with the gradient of the probabilities."""
        logits = self._split(full_precision(output))
        if torch.is_grad_enabled():
            one_hot: Tensor = _StraightThrough.apply(logits, noise, self.mix)  # type: ignore[no-untyped-call]
        else:
            one_hot = one_hot_sample(probabilities(logits), noise, self.mix)
        return one_hot.flatten(-2)

    def stored(self, sample: Tensor) -> Tensor:
        """Return the chosen classes, `[*, count]` bytes."""
        return self._split(sample).argmax(-1).to(torch.uint8)

    def restored(self, stored: Tensor) -> Tensor:
        """Return joined one-hot vectors of the chosen classes."""
        return functional.one_hot(stored.long(), self.classes).float().flatten(-2)

    def kl(self, output: Tensor, other: Tensor) -> Tensor:
        """Return Σ_categoricals Σ_i p_i (log p_i − log q_i)."""
        logprob = self.logprob(output)
        return (logprob.exp() * (logprob - self.logprob(other))).sum((-2, -1))

    def divergences(self, posterior: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """Return both divergences from one computation of the probabilities."""
        mine, other = self.logprob(posterior), self.logprob(prior)
        probability = mine.exp()
        forward = (probability.detach() * (mine.detach() - other)).sum((-2, -1))
        return forward, (probability * (mine - other.detach())).sum((-2, -1))

    def entropy(self, output: Tensor) -> Tensor:
        """Return −Σ_categoricals Σ_i p_i log p_i."""
        logprob = self.logprob(output)
        return -(logprob.exp() * logprob).sum((-2, -1))


class Gaussians(Latents):
    """Vector of independent normals, reparametrized. The output joins means and deviations before softplus.

    Args:
        size: length of the vector.
        least: smallest standard deviation, added to softplus.
    """

    def __init__(self, size: int, least: float = 0.1) -> None:
        """Compute the sizes."""
        self.size, self.outputs, self.noise, self.least = size, 2 * size, (size,), least

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw standard normal numbers."""
        return torch.randn(*shape, *self.noise, generator=generator, device=generator.device)

    def moments(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and standard deviations `[*, size]`."""
        mean, raw = full_precision(output).chunk(2, -1)
        return mean, functional.softplus(raw) + self.least

    def sample(self, output: Tensor, noise: Tensor) -> Tensor:
        """Return mean + deviation · noise."""
        mean, deviation = self.moments(output)
        return mean + deviation * noise

    def stored(self, sample: Tensor) -> Tensor:
        """Return the vectors."""
        return sample

    def restored(self, stored: Tensor) -> Tensor:
        """Return the vectors."""
        return stored

    def kl(self, output: Tensor, other: Tensor) -> Tensor:
        """Return Σ_i log(σ₂ / σ₁) + (σ₁² + (μ₁ − μ₂)²) / (2 σ₂²) − ½."""
        (mean, deviation), (other_mean, other_deviation) = self.moments(output), self.moments(other)
        ratio = deviation / other_deviation
        distance = (mean - other_mean) / other_deviation
        return (0.5 * (ratio.square() + distance.square() - 1.0) - ratio.log()).sum(-1)

    def entropy(self, output: Tensor) -> Tensor:
        """Return Σ_i ½ + ½ log 2π + log σ_i."""
        return (0.5 + 0.5 * math.log(2 * math.pi) + self.moments(output)[1].log()).sum(-1)
