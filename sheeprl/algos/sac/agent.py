"""SAC's networks: actor, critics, target critics and temperature."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sheeprl.algos.base import Spaces
from sheeprl.algos.sac.args import SACArgs
from sheeprl.algos.sac.heads import Head, head_of
from sheeprl.models.critics import Critics, ensemble
from sheeprl.models.encoder import Bottleneck, Encoder
from sheeprl.models.mlp import mlp, orthogonal_

RELU_GAIN = 2**0.5


class Actor(nn.Module):
    """Policy network, and the encoder of the observations.

    The encoder has parameters for pictures only. The critics' loss trains it; the actor's loss doesn't.

    Args:
        observation: observation space.
        outputs: size of the output, see `Head.outputs`.
        args: keys of the inputs, and sizes of the layers.
    """

    def __init__(self, observation: Any, outputs: int, args: SACArgs) -> None:
        """Build encoder and network."""
        super().__init__()
        encoder = Encoder(observation, args.mlp_keys, args.cnn_keys, features=None, cnn=args.cnn)
        self.encoder = orthogonal_(encoder, RELU_GAIN)
        self.bottleneck = orthogonal_(Bottleneck(encoder, args.cnn_features))
        self.network = mlp(self.bottleneck.size, args.hidden_sizes, outputs, "relu")

    def forward(self, obs: Any) -> Tensor:
        """Return the outputs `[N, outputs]` of observations `[N, *]`."""
        return self.output(self.encoder.forward(obs))

    def output(self, features: Tensor) -> Tensor:
        """Return the outputs `[N, outputs]` of encoded observations `[N, features]`."""
        return self.network.forward(self.bottleneck.forward(features))


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
    """Actor, critics, their targets and the temperature. Players get the actor, the submodule `policy`.

    Actor and critics share the actor's encoder; `encoder_target` is its target. Without pictures it has no parameters.
    """

    ensemble: Callable[[Iterable[nn.Module], nn.Module | None, int | None], Critics] = staticmethod(ensemble)

    def __init__(self, spaces: Spaces, args: SACArgs) -> None:
        """Build the networks; targets start as copies."""
        super().__init__()
        head = head_of(spaces.action, args)
        self.policy = Actor(spaces.observation, head.outputs, args)
        self.critic = self.build_critics(head, spaces, args)
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)
        self.encoder_target = copy.deepcopy(self.policy.encoder).requires_grad_(False)
        self.alpha = Temperature(args.alpha)

    def build_critics(self, head: Head, spaces: Spaces, args: SACArgs) -> Critics:
        """Build the critics: one value for an observation and an action, or one for each choice."""
        bottleneck = orthogonal_(Bottleneck(self.policy.encoder, args.cnn_features))
        action_dim = math.prod(spaces.action.shape or ()) if head.choices is None else 0
        networks = self.networks(bottleneck.size + action_dim, head.choices or 1, args)
        return self.ensemble(networks, bottleneck, head.choices)

    def networks(self, inputs: int, outputs: int, args: SACArgs) -> Iterator[nn.Module]:
        """Yield the critics' networks.

        Args:
            inputs: size of the input vectors.
            outputs: number of outputs.
            args: number of critics, and sizes of their layers.
        """
        for _ in range(args.critics):
            yield mlp(inputs, args.hidden_sizes, outputs, "relu")
