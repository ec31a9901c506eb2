"""PPO's networks: an actor for every kind of actions, and a critic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sheeprl.algos.base import Spaces
from sheeprl.algos.ppo.args import PPOArgs
from sheeprl.models.actions import Actions, action_mask
from sheeprl.models.encoder import to_vector, vector_size
from sheeprl.models.mlp import mlp, orthogonal_

HIDDEN_GAIN = 2**0.5


class Actor(nn.Module):
    """Policy network: logits of choices, or the means of a normal distribution.

    An action mask in the observation excludes choices. The standard deviation of continuous actions doesn't depend on
    the observation. Continuous actions aren't squashed: the environment gets them clipped to its bounds, so the
    probability ratio is that of plain normal densities.

    Args:
        observation: observation space.
        action: action space.
        args: sizes and activation of the layers, and the initial log standard deviation.
    """

    def __init__(self, observation: Any, action: Any, args: PPOArgs) -> None:
        """Build the network with orthogonal weights; the small output gain makes the first policy nearly uniform."""
        super().__init__()
        self.space = observation
        self.actions = Actions(action)
        outputs = self.actions.outputs
        log_std = nn.Parameter(torch.full((outputs,), args.log_std_init)) if self.actions.is_continuous else None
        self.register_parameter("log_std", log_std)
        self.network = orthogonal_(
            mlp(vector_size(observation), args.hidden_sizes, outputs, args.activation), HIDDEN_GAIN, output_gain=0.01
        )

    def forward(self, obs: Any) -> Tensor:
        """Return the logits of all choices, or the means: `[N, *]` observations to `[N, outputs]`."""
        output: Tensor = self.network(to_vector(self.space, obs))
        return output if isinstance(obs, Tensor) else self.actions.masked(output, action_mask(obs))

    @property
    def _log_std(self) -> nn.Parameter | None:
        """Parameter `log_std`; its attribute is found only after a slow lookup."""
        return self._parameters["log_std"]

    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """Sample actions, `[N]` or `[N, n]`, from the output of `forward`."""
        return self.actions.sample(output, generator, log_std=self._log_std)

    def greedy(self, output: Tensor) -> Tensor:
        """Return the most likely actions, `[N]` or `[N, n]`."""
        return self.actions.greedy(output)

    def logprob(self, output: Tensor, action: Tensor) -> Tensor:
        """Return the log probability, or log density, of actions: `[N]`."""
        return self.actions.logprob(output, action, log_std=self._log_std)

    def entropy(self, output: Tensor) -> Tensor:
        """Return the entropy of the policy: `[N]`."""
        return self.actions.entropy(output, log_std=self._log_std)


class Critic(nn.Module):
    """State-value network V(obs).

    Args:
        observation: observation space.
        args: sizes and activation of the layers.
    """

    def __init__(self, observation: Any, args: PPOArgs) -> None:
        """Build the network with orthogonal weights."""
        super().__init__()
        self.space = observation
        self.network = orthogonal_(
            mlp(vector_size(observation), args.hidden_sizes, 1, args.activation), HIDDEN_GAIN, output_gain=1.0
        )

    def forward(self, obs: Any, batch_dims: int = 1) -> Tensor:
        """Return the values `[*batch]` of observations `[*batch, *]` with `batch_dims` batch axes."""
        value: Tensor = self.network(to_vector(self.space, obs, batch_dims)).squeeze(-1)
        return value


class PPOAgent(nn.Module):
    """Actor and critic. Players get the actor, the submodule `policy`."""

    def __init__(self, spaces: Spaces, args: PPOArgs) -> None:
        """Build both networks for the given spaces."""
        super().__init__()
        self.policy = Actor(spaces.observation, spaces.action, args)
        self.critic = Critic(spaces.observation, args)
