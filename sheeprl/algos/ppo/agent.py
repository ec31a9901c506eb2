"""PPO's networks: an actor for every kind of actions, and a critic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sheeprl.algos.base import Spaces
from sheeprl.algos.ppo.args import ActorCriticArgs, PPOArgs
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

    log_std: nn.Parameter | None

    def __init__(self, observation: Any, action: Any, args: ActorCriticArgs) -> None:
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
        return self.actions.masked(output, action_mask(obs))

    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """Sample actions, `[N]` or `[N, n]`, from the output of `forward`."""
        return self.actions.sample(output, generator, log_std=self.log_std)

    def greedy(self, output: Tensor) -> Tensor:
        """Return the most likely actions, `[N]` or `[N, n]`."""
        return self.actions.greedy(output)

    def logprob(self, output: Tensor, action: Tensor) -> Tensor:
        """Return the log probability, or log density, of actions: `[N]`."""
        return self.actions.logprob(output, action, log_std=self.log_std)

    def entropy(self, output: Tensor) -> Tensor:
        """Return the entropy of the policy: `[N]`."""
        return self.actions.entropy(output, log_std=self.log_std)


class Critic(nn.Module):
    """State-value network V(obs).

    Args:
        observation: observation space.
        args: sizes and activation of the layers.
    """

    def __init__(self, observation: Any, args: ActorCriticArgs) -> None:
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


class ActorCriticAgent(nn.Module):
    """Actor and critic. Players get the actor, the submodule `policy`."""

    def __init__(self, spaces: Spaces, args: ActorCriticArgs) -> None:
        """Build both networks for the given spaces."""
        super().__init__()
        self.policy = Actor(spaces.observation, spaces.action, args)
        self.critic = Critic(spaces.observation, args)


class PPOAgent(ActorCriticAgent):
    """Actor, critic and, with `desired_kl`, the state of the adaptive learning rate.

    The divergence is a buffer because a buffer holds the mean over the trainer group, so all ranks have the same
    learning rate. A resumed run continues with it.

    - `kl`: KL(π_old, π) of the last minibatch.
    - `lr_scale`: factor on the learning rate.
    """

    kl: Tensor
    lr_scale: Tensor

    def __init__(self, spaces: Spaces, args: PPOArgs) -> None:
        """Build both networks for the given spaces, and the buffers."""
        super().__init__(spaces, args)
        if args.desired_kl is not None:
            self.register_buffer("kl", torch.zeros(()))
            self.register_buffer("lr_scale", torch.ones(()))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load a checkpoint that was saved with another value of `desired_kl`, too."""
        own = dict(self.named_buffers(recurse=False))
        for name in ("kl", "lr_scale"):
            if name in own:
                state_dict.setdefault(prefix + name, own[name].clone())
            else:
                state_dict.pop(prefix + name, None)
        super()._load_from_state_dict(state_dict, prefix, *args)
