"""TD3's networks: deterministic actor, twin critics, and a target network of each."""

from __future__ import annotations

import copy
import math
from typing import Any

from torch import Tensor, nn

from sheeprl.algos.base import Spaces
from sheeprl.algos.td3.args import TD3Args
from sheeprl.models.critics import Critics
from sheeprl.models.encoder import to_vector, vector_size
from sheeprl.models.mlp import mlp

CRITICS = 2


class Actor(nn.Module):
    """Policy network: one action in [−1, 1] for each observation.

    Args:
        observation: observation space.
        action_dim: number of action components.
        args: sizes of the layers.
    """

    def __init__(self, observation: Any, action_dim: int, args: TD3Args) -> None:
        """Build the network."""
        super().__init__()
        self.space = observation
        self.network = mlp(vector_size(observation), args.hidden_sizes, action_dim, "relu")

    def forward(self, obs: Any) -> Tensor:
        """Return the actions `[N, action_dim]` of `[N, *]` observations."""
        outputs: Tensor = self.network(to_vector(self.space, obs))
        return outputs.tanh()


class TD3Agent(nn.Module):
    """Actor, critics and their targets. Players get the actor, the submodule `policy`."""

    def __init__(self, spaces: Spaces, args: TD3Args) -> None:
        """Build the networks; the targets start as copies."""
        super().__init__()
        action_dim = math.prod(spaces.action.shape or ())
        inputs = vector_size(spaces.observation) + action_dim
        self.policy = Actor(spaces.observation, action_dim, args)
        networks = (mlp(inputs, args.hidden_sizes, 1, "relu") for _ in range(CRITICS))
        self.critic = Critics(networks)
        self.policy_target = copy.deepcopy(self.policy).requires_grad_(False)
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)
