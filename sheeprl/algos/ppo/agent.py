"""PPO's networks: an actor for every kind of actions, and a critic."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sheeprl.algos.base import Spaces
from sheeprl.algos.ppo.args import ActorCriticArgs, PPOArgs
from sheeprl.models.actions import Actions, action_mask
from sheeprl.models.encoder import Encoder, to_vector, vector_size
from sheeprl.models.mlp import mlp, orthogonal_
from sheeprl.models.normalizer import RunningMoments
from sheeprl.models.recurrent import Recurrent

HIDDEN_GAIN = 2**0.5


class Actor(nn.Module):
    """Policy network: logits of choices, or the means of a normal distribution.

    An action mask in the observation excludes choices. The standard deviation of continuous actions doesn't depend on
    the observation. Continuous actions aren't squashed: the environment gets them clipped to its bounds, so the
    probability ratio is that of plain normal densities.

    A subclass may put a memory between the encoder and the layers, see `build_memory`.

    Args:
        observation: observation space.
        action: action space.
        args: sizes and activation of the layers, and the initial log standard deviation.
    """

    def __init__(self, observation: Any, action: Any, args: ActorCriticArgs) -> None:
        """Build the network with orthogonal weights; the small output gain makes the first policy nearly uniform."""
        super().__init__()
        encoder = Encoder(observation, args.mlp_keys, args.cnn_keys, features=args.cnn_features, cnn=args.cnn)
        self.encoder = orthogonal_(encoder, HIDDEN_GAIN)
        self.vector_size = vector_size(encoder.vectors) if encoder.has_vectors else 0
        self.moments = RunningMoments((self.vector_size,)) if args.normalize_obs and self.vector_size else None
        self.memory = self.build_memory(encoder.size, args)
        self.size = encoder.size if self.memory is None else self.memory.size
        self.actions = Actions(action)
        outputs = self.actions.outputs
        log_std = nn.Parameter(torch.full((outputs,), args.log_std_init)) if self.actions.is_continuous else None
        self.register_parameter("log_std", log_std)
        self.network = orthogonal_(
            mlp(self.size, args.hidden_sizes, outputs, args.activation), HIDDEN_GAIN, output_gain=0.01
        )

    def build_memory(self, inputs: int, args: Any) -> Recurrent | None:
        """Return a recurrent cell for vectors of `inputs` features; None for a policy without memory."""
        return None

    def forward(self, obs: Any) -> Tensor:
        """Return the logits of all choices, or the means: `[N, *]` observations to `[N, outputs]`."""
        return self.head(self.features(obs), obs)

    def features(self, obs: Any, batch_dims: int = 1) -> Tensor:
        """Return the inputs of actor and critic, or of their memory: `[*batch, *]` to `[*batch, features]`.

        Pictures pass the CNN, which both networks share. Vectors are joined, and normalized with `normalize_obs`.
        """
        features: Tensor = self.encoder.forward(obs, batch_dims)
        if self.moments is None:
            return features
        pictures, vector = features.tensor_split([-self.vector_size], -1)
        vector = self.moments.normalize(vector)
        return torch.cat([pictures, vector], -1) if pictures.shape[-1] else vector

    def vector(self, obs: Any, batch_dims: int) -> Tensor:
        """Return the joined vectors of observations before normalization: `[*batch, vector_size]`."""
        return to_vector(self.encoder.vectors, obs, batch_dims)

    def head(self, features: Tensor, obs: Any) -> Tensor:
        """Return the output for features `[N, *]`; forbidden choices have probability 0."""
        output: Tensor = self.network.forward(features)
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
    """State-value network V on the features of an observation.

    Args:
        inputs: number of features, `Actor.size`.
        args: sizes and activation of the layers.
    """

    def __init__(self, inputs: int, args: ActorCriticArgs) -> None:
        """Build the network with orthogonal weights."""
        super().__init__()
        self.network = orthogonal_(mlp(inputs, args.hidden_sizes, 1, args.activation), HIDDEN_GAIN, output_gain=1.0)

    def forward(self, features: Tensor) -> Tensor:
        """Return the values `[*batch]` of features `[*batch, inputs]`, see `Actor.features`."""
        value: Tensor = self.network(features).squeeze(-1)
        return value


class ActorCriticAgent(nn.Module):
    """Actor and critic. Players get the actor, the submodule `policy`.

    The encoder of the observations is a part of the actor, and the critic reads its features. It has parameters for
    pictures only, so actor and critic share no parameters where all observations are vectors.
    """

    actor: ClassVar[type[Actor]] = Actor
    """Class of the policy network."""

    def __init__(self, spaces: Spaces, args: ActorCriticArgs) -> None:
        """Build both networks for the given spaces."""
        super().__init__()
        self.policy = self.actor(spaces.observation, spaces.action, args)
        self.critic = Critic(self.policy.size, args)
        self.return_moments = RunningMoments() if args.normalize_reward else None


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
