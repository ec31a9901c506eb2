"""Networks of the Dreamers before the third: ELU layers, a plain CNN, predictions of unit variance."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from sheeprl.algos.base import Spaces
from sheeprl.algos.dreamer.actor import ActorHead
from sheeprl.algos.dreamer_v2.args import EarlyDreamerArgs
from sheeprl.models.cnn import LEAST, PixelDecoder, flat_size, pixel_encoder
from sheeprl.models.encoder import Encoder
from sheeprl.models.latents import Latents
from sheeprl.models.mlp import MLP, mlp
from sheeprl.models.normed import JoinedLayer
from sheeprl.models.recurrent import Recurrent
from sheeprl.models.rssm import RSSM, DenseGRU


@dataclass(frozen=True)
class PlainCNNs:
    """CNNs of pictures.

    Args:
        kind: kind of CNN of pictures that are large enough for it; smaller ones have the kind `auto`.
        activation: key of `ACTIVATIONS`.
    """

    kind: str
    activation: str

    def kind_for(self, shape: Sequence[int]) -> str:
        """Return the kind for pictures of the shape (C, H, W)."""
        return self.kind if min(shape[1:]) >= LEAST[self.kind] else "auto"

    def encoder(self, shape: Sequence[int]) -> PlainCNN:
        """Build an encoder of pictures of the shape (C, H, W)."""
        kind = self.kind_for(shape)
        return PlainCNN(pixel_encoder(kind, shape, None, activation=self.activation), flat_size(kind, shape))

    def decoder(self, inputs: int, shape: Sequence[int]) -> PixelDecoder:
        """Build a decoder from `inputs` features to pictures of the shape (C, H, W)."""
        return PixelDecoder(inputs, shape, self.kind_for(shape), self.activation)


class PlainCNN(nn.Module):
    """CNN of a picture, which is moved to ±½.

    Args:
        layers: convolutions.
        size: length of the output.
    """

    def __init__(self, layers: nn.Module, size: int) -> None:
        """Store the layers."""
        super().__init__()
        self.layers, self.size = layers, size

    def forward(self, pictures: Tensor) -> Tensor:
        """Encode pictures of numbers in [0, 1]: `[N, C, H, W]` to `[N, size]`."""
        features: Tensor = self.layers(pictures - 0.5)
        return features


class PlainEncoder(nn.Module):
    """Encodes pictures by a CNN and the joined vectors by an MLP.

    Args:
        spaces: observation and action space.
        args: arguments of the algorithm.
        cnns: CNNs of pictures.
    """

    def __init__(self, spaces: Spaces, args: EarlyDreamerArgs, cnns: PlainCNNs) -> None:
        """Build the networks."""
        super().__init__()
        self.parts = Encoder(
            spaces.observation,
            args.mlp_keys,
            args.cnn_keys,
            features=None,
            cnn=cnns.encoder,
            mlp=(args.units,) * args.layers,
            activation="elu",
        )
        self.raw = Encoder(spaces.observation, args.mlp_keys, ()) if self.parts.has_vectors else None
        self.size = self.parts.size
        """Length of an encoded observation."""

    def forward(self, obs: Any, batch_dims: int = 1) -> Tensor:
        """Encode observations: `[*batch, *]` to `[*batch, size]`."""
        return cast(Tensor, self.parts(obs, batch_dims))

    def targets(self, obs: Any, batch_dims: int) -> tuple[list[Tensor], Tensor | None]:
        """Return what the decoder reconstructs: pictures `[N, C, H, W]` in ±½, and the vectors, if there are any."""
        pictures = [picture - 0.5 for picture in self.parts.channels_first(obs)]
        return pictures, None if self.raw is None else self.raw(obs, batch_dims)


class PlainDecoder(nn.Module):
    """Reconstructs pictures and vectors from joined states.

    Args:
        encoder: encoder of the observations.
        state: length of the joined state.
        args: arguments of the algorithm.
        cnns: CNNs of pictures.
    """

    def __init__(self, encoder: PlainEncoder, state: int, args: EarlyDreamerArgs, cnns: PlainCNNs) -> None:
        """Build the networks."""
        super().__init__()
        shapes = encoder.parts.picture_shapes
        self.pictures = nn.ModuleList(cnns.decoder(state, shape) for shape in shapes)
        self.vectors = None if encoder.raw is None else head(state, args, encoder.raw.size)

    def forward(self, state: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Decode states `[*, state]` to pictures `[N, C, H, W]` of all of them, and vectors `[*, vectors]`."""
        rows = state.flatten(0, -2)
        return [decoder(rows) for decoder in self.pictures], None if self.vectors is None else self.vectors(state)


def head(inputs: int, args: EarlyDreamerArgs, outputs: int) -> MLP:
    """Build an MLP on the joined state."""
    return mlp(inputs, (args.units,) * args.layers, outputs, "elu")


class PlainActor(nn.Module):
    """Policy on the joined state.

    Args:
        head: distribution of the actions.
        inputs: length of the joined state.
        args: arguments of the algorithm.
    """

    def __init__(self, distribution: ActorHead, inputs: int, args: EarlyDreamerArgs) -> None:
        """Build the network."""
        super().__init__()
        self.head = distribution
        self.network = head(inputs, args, distribution.outputs)

    def forward(self, state: Tensor) -> Tensor:
        """Return the parameters of the distribution in states `[*, inputs]`."""
        return self.head.parameters(self.network(state))


class Policy(nn.Module):
    """Encoder, dynamics and actor: what players need.

    Args:
        spaces: observation and action space.
        args: arguments of the algorithm.
        distribution: distribution of the actions.
        latents: kind of the stochastic state.
        cell: gated recurrent unit with inputs of the length `args.hidden`.
        cnns: CNNs of pictures.
    """

    def __init__(
        self,
        spaces: Spaces,
        args: EarlyDreamerArgs,
        distribution: ActorHead,
        latents: Latents,
        cell: Recurrent,
        cnns: PlainCNNs,
    ) -> None:
        """Build the networks."""
        super().__init__()
        self.encoder = PlainEncoder(spaces, args, cnns)
        dynamics = DenseGRU(cell, latents.size, distribution.size, args.hidden)
        prior = mlp(args.deter, (args.hidden,), latents.outputs, "elu")
        joined = JoinedLayer(args.deter, self.encoder.size, args.hidden, nn.ELU())
        self.rssm = RSSM(dynamics, latents, prior, joined, nn.Linear(args.hidden, latents.outputs))
        self.actor = PlainActor(distribution, self.rssm.size, args)


class EarlyDreamerAgent(nn.Module):
    """Policy, decoder, the heads of reward and continuation, critic and its target.

    Args:
        policy: encoder, dynamics and actor.
        args: arguments of the algorithm.
        cnns: CNNs of pictures.
    """

    def __init__(self, policy: Policy, args: EarlyDreamerArgs, cnns: PlainCNNs) -> None:
        """Build the networks."""
        super().__init__()
        self.policy = policy
        size = policy.rssm.size
        self.decoder = PlainDecoder(policy.encoder, size, args, cnns)
        self.reward, self.continuation, self.critic = (head(size, args, 1) for _ in range(3))
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)
