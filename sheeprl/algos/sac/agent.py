"""SAC's networks: squashed Gaussian actor, twin critics and their targets, temperature."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from sheeprl.algos.base import Spaces
from sheeprl.algos.sac.args import SACArgs
from sheeprl.models import distributions
from sheeprl.models.encoder import to_vector, vector_size
from sheeprl.models.mlp import mlp

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0


class Actor(nn.Module):
    """Mean and log standard deviation of a normal that is squashed into (−1, 1) by tanh."""

    def __init__(self, observation: Any, actions: int, args: SACArgs) -> None:
        super().__init__()
        self.space = observation
        self.network = mlp(vector_size(observation), args.hidden_sizes, 2 * actions, "relu")

    def forward(self, obs: Any) -> tuple[Tensor, Tensor]:
        """`[N, actions]` means and log standard deviations."""
        mean, log_std = self.network(to_vector(self.space, obs)).chunk(2, -1)
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)

    def sample(self, obs: Any, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions `[N, actions]` and their log densities `[N]`, differentiable, from standard normal noise."""
        mean, log_std = self(obs)
        return distributions.tanh_normal_sample(mean, log_std, noise)


class Critic(nn.Module):
    """Q_1 and Q_2 of observation and action."""

    def __init__(self, observation: Any, actions: int, args: SACArgs) -> None:
        super().__init__()
        self.space = observation
        size = vector_size(observation) + actions
        self.networks = nn.ModuleList([mlp(size, args.hidden_sizes, 1, "relu") for _ in range(2)])

    def forward(self, obs: Any, action: Tensor) -> Tensor:
        """`[2, N]` values."""
        inputs = torch.cat([to_vector(self.space, obs), action], -1)
        return torch.cat([network(inputs) for network in self.networks], -1).T


class Temperature(nn.Module):
    """α, the weight of the entropy, kept positive by its logarithm."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.tensor(math.log(alpha)))

    def forward(self) -> Tensor:
        """α as a detached scalar."""
        return self.log_alpha.detach().exp()


class SACAgent(nn.Module):
    """Actor, which is all that players need, critics, target critics, temperature."""

    def __init__(self, spaces: Spaces, args: SACArgs) -> None:
        super().__init__()
        actions = math.prod(spaces.action.shape or ())
        self.policy = Actor(spaces.observation, actions, args)
        self.critic = Critic(spaces.observation, actions, args)
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)
        self.alpha = Temperature(args.alpha)
