"""Policies of SAC on the output of the actor's network: what differs between continuous and discrete actions."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor

from sheeprl.algos.base import Mode, Tensors
from sheeprl.algos.sac.args import SACArgs
from sheeprl.models import distributions
from sheeprl.models.actions import Actions, action_mask

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0


class Decision(NamedTuple):
    """Actions over which a loss takes its expectation: one sample per observation, or all choices.

    Args:
        logprob: `[N]` log density of the sample, or `[N, choices]` log probabilities.
        action: `[N, action_dim]` sample; None for all choices.
        probability: `[N, choices]`; None for a sample.
    """

    logprob: Tensor
    action: Tensor | None = None
    probability: Tensor | None = None


class Head(ABC):
    """Policy as a function of the output of the actor's network."""

    outputs: int
    """Size of the output."""
    choices: int | None = None
    """Number of discrete actions, each of which has a value; None for continuous actions."""

    @abstractmethod
    def noise(self, count: int, generator: torch.Generator) -> Tensors:
        """Return the random numbers of `decide` for a batch of `count` samples."""

    @abstractmethod
    def decide(self, output: Tensor, obs: Any, noise: Tensors) -> Decision:
        """Return the actions for the expectation of a loss, with gradients."""

    @abstractmethod
    def random(self, obs: Any, count: int, generator: torch.Generator) -> Tensor:
        """Return `count` uniform actions."""

    @abstractmethod
    def act(self, output: Tensor, obs: Any, mode: Mode, generator: torch.Generator) -> Tensor:
        """Return actions of the policy: the most likely ones (greedy), or sampled (explore)."""

    @abstractmethod
    def target_entropy(self, obs: Any) -> float | Tensor:
        """Return the target H̄ of the policy's entropy, one number or `[N]`."""


class SquashedGaussian(Head):
    """Normal distribution of actions, squashed into (−1, 1) by tanh. Losses take one sample of it.

    Args:
        space: action space.
        args: target of the entropy; by default −dim(A).
    """

    def __init__(self, space: spaces.Box, args: SACArgs) -> None:
        """Compute the sizes."""
        self.action_dim = math.prod(space.shape)
        self.outputs = 2 * self.action_dim
        self.target = -float(self.action_dim) if args.target_entropy is None else args.target_entropy

    def distribution(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation before tanh, each `[N, action_dim]`."""
        mean, log_std = output.chunk(2, -1)
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)

    def noise(self, count: int, generator: torch.Generator) -> Tensors:
        """Return standard normal noise `[N, action_dim]`."""
        return {"action": torch.randn((count, self.action_dim), generator=generator)}

    def decide(self, output: Tensor, obs: Any, noise: Tensors) -> Decision:
        """Sample actions by reparametrization."""
        action, logprob = distributions.tanh_normal_sample(*self.distribution(output), noise["action"])
        return Decision(logprob, action=action)

    def random(self, obs: Any, count: int, generator: torch.Generator) -> Tensor:
        """Return actions that are uniform in [−1, 1]."""
        return torch.rand((count, self.action_dim), generator=generator) * 2 - 1

    def act(self, output: Tensor, obs: Any, mode: Mode, generator: torch.Generator) -> Tensor:
        """Return tanh of the mean (greedy), or of a sample (explore)."""
        mean, log_std = self.distribution(output)
        if mode == "greedy":
            return torch.tanh(mean)
        noise = torch.randn((len(mean), self.action_dim), generator=generator)
        return torch.tanh(mean + log_std.exp() * noise)

    def target_entropy(self, obs: Any) -> float:
        """Return the target of the entropy."""
        return self.target


class Categorical(Head):
    """Probabilities of discrete actions, Christodoulou 2019 (1910.07207). Losses take all choices, without a sample.

    Forbidden choices of an action mask have probability 0, and log probability 0 in place of −∞.

    Args:
        space: action space.
        args: target of the entropy; by default a fraction of that of the uniform policy.
    """

    def __init__(self, space: spaces.Discrete, args: SACArgs) -> None:
        """Compute the sizes."""
        self.actions = Actions(space)
        self.outputs = self.choices = int(space.n)
        self.target, self.scale = args.target_entropy, args.target_entropy_scale

    def noise(self, count: int, generator: torch.Generator) -> Tensors:
        """Return nothing: the expectation is exact."""
        return {}

    def decide(self, output: Tensor, obs: Any, noise: Tensors) -> Decision:
        """Return the probabilities of all choices."""
        mask = action_mask(obs)
        logprob = self.actions.masked(output, mask).log_softmax(-1)
        probability = logprob.exp()
        return Decision(logprob if mask is None else torch.where(mask, logprob, 0.0), probability=probability)

    def random(self, obs: Any, count: int, generator: torch.Generator) -> Tensor:
        """Return actions that are uniform over the permitted choices."""
        return self.actions.random(count, generator, mask=action_mask(obs))

    def act(self, output: Tensor, obs: Any, mode: Mode, generator: torch.Generator) -> Tensor:
        """Return the most likely choices (greedy), or sampled ones (explore)."""
        mask = action_mask(obs)
        if mode == "greedy":
            return self.actions.greedy(output, mask=mask)
        return self.actions.sample(output, generator, mask=mask)

    def target_entropy(self, obs: Any) -> float | Tensor:
        """Return a fraction of log |A|, where A are the permitted choices of each observation."""
        if self.target is not None:
            return self.target
        mask = action_mask(obs)
        if mask is None:
            return self.scale * math.log(self.outputs)
        return self.scale * mask.sum(-1).clamp(min=1).log()


def head_of(space: Any, args: SACArgs) -> Head:
    """Return the head for an action space."""
    return Categorical(space, args) if isinstance(space, spaces.Discrete) else SquashedGaussian(space, args)
