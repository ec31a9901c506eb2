"""Actions of every kind of space: their distribution, as functions of the output of a policy network."""

from __future__ import annotations

from typing import Any

import gymnasium
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional

from sheeprl.envs.transforms import ACTION_MASK, action_choices
from sheeprl.models import distributions

__all__ = ["ACTION_MASK", "Actions", "action_mask"]


def action_mask(obs: Any) -> Tensor | None:
    """Return the action mask of observations as booleans `[*batch, choices]`; None without the key `action_mask`.

    Args:
        obs: tensor, or a mapping of tensors.
    """
    if isinstance(obs, Tensor) or ACTION_MASK not in obs.keys():  # noqa: SIM118 (a TensorDict has no `in`)
        return None
    mask: Tensor = obs[ACTION_MASK]
    return mask.bool()


class Actions:
    """Distribution of the actions of a space, given the output of a policy network.

    ============= ================================= ==============================
    space         output                            action
    ============= ================================= ==============================
    Discrete      logits `[N, n]`                   `[N]` int64
    MultiDiscrete joined logits `[N, sum(nvec)]`    `[N, n]` int64
    MultiBinary   logits of the ones `[N, n]`       `[N, n]` int8
    Box           means `[N, n]`                    `[N, n]` float, unbounded
    ============= ================================= ==============================

    The components of an action are independent. The normal distribution of a Box needs `log_std`, `[n]` or `[N, n]`.
    Batches may have any number of leading axes instead of N, except in `random`.

    An action mask `[N, sum of choices]` is true for permitted choices; a MultiBinary has two choices per component,
    0 and 1. Forbidden choices have probability 0 and gradient 0. At least one choice of each component must be
    permitted, except in rows without an action, such as final observations: their results are finite, but meaningless.

    Args:
        space: action space of an agent (`Spaces.action`).

    Raises:
        TypeError: another kind of space.
    """

    def __init__(self, space: gymnasium.Space[Any]) -> None:
        """Read the sizes of the space."""
        self.space = space
        self.is_continuous = isinstance(space, spaces.Box)
        """Actions are real numbers; the policy needs a `log_std`."""
        self.is_single = isinstance(space, spaces.Discrete)
        """Actions have one component and no axis for it."""
        self.is_binary = isinstance(space, spaces.MultiBinary)
        self.choices = action_choices(space)
        """Number of choices of each component; empty for a Box."""
        if isinstance(space, spaces.Box):
            self.outputs = int(space.shape[0])
        elif not self.choices:
            raise TypeError(f"actions of the space {space} aren't supported")
        else:
            self.outputs = len(self.choices) if self.is_binary else sum(self.choices)
        self._is_bounded = isinstance(space, spaces.Box) and space.is_bounded()

    def masked(self, output: Tensor, mask: Tensor | None) -> Tensor:
        """Return an output in which forbidden choices have probability 0; the output itself without a mask."""
        if mask is None or self.is_continuous:
            return output
        if not self.is_binary:
            return distributions.masked(output, mask)
        zero, one = mask[..., ::2], mask[..., 1::2]
        certain = torch.finfo(output.dtype).max / 2
        return torch.where(zero == one, output, torch.where(one, certain, -certain))

    def sample(
        self, output: Tensor, generator: torch.Generator, *, log_std: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Sample actions. The generator must be on the device of the output."""
        if self.is_single and mask is None:  # the common case first: players sample at every step
            return distributions.categorical_sample(output, distributions.exponential_like(output, generator))
        if self.is_continuous:
            noise = torch.empty_like(output).normal_(generator=generator)
            return output + _needed(log_std).exp() * noise
        output = self.masked(output, mask)
        if self.is_binary:
            uniform = torch.empty_like(output).uniform_(generator=generator)
            return distributions.bernoulli_sample(output, uniform)
        noise = distributions.exponential_like(output, generator)
        if mask is not None:  # noise of 0 would put a forbidden choice above all others
            noise = torch.where(mask, noise, 1.0)
        if self.is_single:
            return distributions.categorical_sample(output, noise)
        pairs = zip(output.split_with_sizes(self.choices, -1), noise.split_with_sizes(self.choices, -1), strict=True)
        return torch.stack([distributions.categorical_sample(*pair) for pair in pairs], -1)

    def greedy(self, output: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Return the most likely actions."""
        if mask is not None:
            output = self.masked(output, mask)
        if self.is_single:
            return output.argmax(-1)
        if self.is_continuous:
            return output
        if self.is_binary:
            return (output > 0).to(torch.int8)
        return torch.stack([logits.argmax(-1) for logits in output.split_with_sizes(self.choices, -1)], -1)

    def logprob(
        self, output: Tensor, action: Tensor, *, log_std: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the log probability, or log density, of actions: `[N]`."""
        if mask is not None:
            output = self.masked(output, mask)
        if self.is_single:
            return distributions.categorical_logprob(output, action)
        if self.is_continuous:
            return distributions.normal_logprob(action, output, _needed(log_std))
        if self.is_binary:
            return distributions.bernoulli_logprob(output, action)
        pairs = zip(output.split_with_sizes(self.choices, -1), action.unbind(-1), strict=True)
        return torch.stack([distributions.categorical_logprob(*pair) for pair in pairs]).sum(0)

    def entropy(self, output: Tensor, *, log_std: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the entropy of the distribution: `[N]`."""
        if mask is not None:
            output = self.masked(output, mask)
        if self.is_single:
            return distributions.categorical_entropy(output)
        if self.is_continuous:
            return distributions.normal_entropy(_needed(log_std).expand_as(output))
        if self.is_binary:
            return distributions.bernoulli_entropy(output)
        return torch.stack(
            [distributions.categorical_entropy(part) for part in output.split_with_sizes(self.choices, -1)]
        ).sum(0)

    def vector(self, action: Tensor) -> Tensor:
        """Return actions as float vectors, the input of a world model or a recurrent network.

        Choices become joined one-hot vectors `[*, sum of choices]`; the components of a MultiBinary and a Box are
        unchanged, `[*, n]`.
        """
        if self.is_continuous or self.is_binary:
            return action.float()
        if self.is_single:
            return functional.one_hot(action.long(), self.choices[0]).float()
        pairs = zip(action.long().unbind(-1), self.choices, strict=True)
        return torch.cat([functional.one_hot(part, count) for part, count in pairs], -1).float()

    def random(
        self,
        n: int,
        generator: torch.Generator,
        *,
        mask: Tensor | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Sample n actions uniformly over the permitted ones; those of an unbounded Box are standard normal.

        Args:
            n: number of actions.
            generator: generator on the device of the actions.
            mask: action mask `[n, sum of choices]`.
            device: device of the actions; None for the CPU.
        """
        output = torch.zeros(n, self.outputs, device=device)
        if self._is_bounded:
            return output.uniform_(-1.0, 1.0, generator=generator)
        return self.sample(output, generator, log_std=output, mask=mask)


def _needed(log_std: Tensor | None) -> Tensor:
    """Return the log standard deviation, without which continuous actions have no distribution.

    Raises:
        TypeError: it is missing.
    """
    if log_std is None:
        raise TypeError("actions of a Box need log_std=..., the log standard deviation of the policy")
    return log_std
