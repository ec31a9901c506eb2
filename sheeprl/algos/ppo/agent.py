"""PPO's networks: an actor for every kind of action, and a critic."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from sheeprl.algos.base import Spaces
from sheeprl.algos.ppo.args import PPOArgs
from sheeprl.models import distributions
from sheeprl.models.encoder import to_vector, vector_size
from sheeprl.models.mlp import mlp, orthogonal_

GAIN = 2**0.5


class Actor(nn.Module):
    """Logits of (multi-)discrete actions, or mean and state-independent standard deviation of continuous ones.

    Continuous actions are clipped to the bounds on their way to the environment, not squashed: the density that the
    ratio needs is then that of the plain normal.
    """

    def __init__(self, observation: Any, action: Any, args: PPOArgs) -> None:
        super().__init__()
        self.space = observation
        if isinstance(action, spaces.Box):
            self.choices: list[int] = []
            outputs = action.shape[0]
            self.log_std = nn.Parameter(torch.full((outputs,), args.log_std_init))
        else:
            self.choices = [int(action.n)] if isinstance(action, spaces.Discrete) else action.nvec.tolist()
            outputs = sum(self.choices)
        self.is_single = isinstance(action, spaces.Discrete)
        self.network = orthogonal_(
            mlp(vector_size(observation), args.hidden_sizes, outputs, args.activation), GAIN, output_gain=0.01
        )

    def forward(self, obs: Any) -> Tensor:
        """Logits of all choices, or means: `[N, outputs]`."""
        output: Tensor = self.network(to_vector(self.space, obs))
        return output

    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """Draw actions from the network's output."""
        if not self.choices:
            noise = torch.randn(output.shape, generator=generator)
            return output + self.log_std.exp() * noise
        noise = distributions.exponential_like(output, generator)
        if self.is_single:
            return distributions.categorical_sample(output, noise)
        parts = zip(output.split(self.choices, -1), noise.split(self.choices, -1), strict=True)
        return torch.stack([distributions.categorical_sample(*part) for part in parts], -1)

    def greedy(self, output: Tensor) -> Tensor:
        """The most likely actions."""
        if not self.choices:
            return output
        if self.is_single:
            return output.argmax(-1)
        return torch.stack([logits.argmax(-1) for logits in output.split(self.choices, -1)], -1)

    def logprob(self, output: Tensor, action: Tensor) -> Tensor:
        """Log probability (density) of actions: `[N]`."""
        if not self.choices:
            return distributions.normal_logprob(action, output, self.log_std)
        if self.is_single:
            return distributions.categorical_logprob(output, action)
        parts = zip(output.split(self.choices, -1), action.unbind(-1), strict=True)
        return torch.stack([distributions.categorical_logprob(logits, a) for logits, a in parts]).sum(0)

    def entropy(self, output: Tensor) -> Tensor:
        """Entropy of the distributions: `[N]`."""
        if not self.choices:
            return distributions.normal_entropy(self.log_std.expand_as(output))
        return torch.stack([distributions.categorical_entropy(x) for x in output.split(self.choices, -1)]).sum(0)


class Critic(nn.Module):
    """V(obs)."""

    def __init__(self, observation: Any, args: PPOArgs) -> None:
        super().__init__()
        self.space = observation
        self.network = orthogonal_(
            mlp(vector_size(observation), args.hidden_sizes, 1, args.activation), GAIN, output_gain=1.0
        )

    def forward(self, obs: Any, batch_dims: int = 1) -> Tensor:
        """`[*batch]` values of `[*batch, *]` observations."""
        value: Tensor = self.network(to_vector(self.space, obs, batch_dims)).squeeze(-1)
        return value


class PPOAgent(nn.Module):
    """Actor, which is all that players need, and critic."""

    def __init__(self, spaces: Spaces, args: PPOArgs) -> None:
        super().__init__()
        self.policy = Actor(spaces.observation, spaces.action, args)
        self.critic = Critic(spaces.observation, args)
