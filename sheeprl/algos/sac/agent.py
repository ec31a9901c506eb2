"""SAC's networks: squashed Gaussian actor, critics, target critics and temperature."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sheeprl.algos.base import Spaces
from sheeprl.algos.sac.args import SACArgs
from sheeprl.models import distributions
from sheeprl.models.critics import Critics, ensemble
from sheeprl.models.encoder import to_vector, vector_size
from sheeprl.models.mlp import mlp

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0


class Actor(nn.Module):
    """Policy network: a normal distribution of actions, squashed into (−1, 1) by tanh.

    Args:
        observation: observation space.
        action_dim: number of action components.
        args: sizes of the layers.
    """

    def __init__(self, observation: Any, action_dim: int, args: SACArgs) -> None:
        """Build the network with outputs for mean and log standard deviation."""
        super().__init__()
        self.space = observation
        self.network = mlp(vector_size(observation), args.hidden_sizes, 2 * action_dim, "relu")

    def forward(self, obs: Any) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation before tanh, each `[N, action_dim]`."""
        mean, log_std = self.network(to_vector(self.space, obs)).chunk(2, -1)
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)

    def sample(self, obs: Any, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Sample actions `[N, action_dim]` and their log densities `[N]` by reparametrization.

        Args:
            obs: `[N, *]` observations.
            noise: `[N, action_dim]`, standard normal.
        """
        mean, log_std = self(obs)
        return distributions.tanh_normal_sample(mean, log_std, noise)


class Temperature(nn.Module):
    """Temperature α, the coefficient of the entropy. The parameter is log α, so α stays positive."""

    def __init__(self, alpha: float) -> None:
        """Start at the temperature `alpha`."""
        super().__init__()
        self.log_alpha = nn.Parameter(torch.tensor(math.log(alpha)))

    def forward(self) -> Tensor:
        """Return α as a detached scalar."""
        return self.log_alpha.detach().exp()


class SACAgent(nn.Module):
    """Actor, critics, target critics and temperature. Players get the actor, the submodule `policy`."""

    ensemble: Callable[[Any, Iterable[nn.Module]], Critics] = staticmethod(ensemble)

    def __init__(self, spaces: Spaces, args: SACArgs) -> None:
        """Build the networks; the target critics start as copies of the critics."""
        super().__init__()
        action_dim = math.prod(spaces.action.shape or ())
        self.policy = Actor(spaces.observation, action_dim, args)
        inputs = vector_size(spaces.observation) + action_dim
        self.critic = self.ensemble(spaces.observation, self.networks(inputs, args))
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)
        self.alpha = Temperature(args.alpha)

    def networks(self, inputs: int, args: SACArgs) -> Iterator[nn.Module]:
        """Yield the critics' networks.

        Args:
            inputs: size of the vectors of observation and action.
            args: number of critics, and sizes of their layers.
        """
        for _ in range(args.critics):
            yield mlp(inputs, args.hidden_sizes, 1, "relu")
