"""DreamerV3's networks."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from sheeprl.algos.base import Spaces
from sheeprl.algos.dreamer.actor import ActorHead
from sheeprl.algos.dreamer_v3.args import DreamerV3Args
from sheeprl.models.cnn import DoublingDecoder, HalvingEncoder
from sheeprl.models.encoder import Encoder
from sheeprl.models.latents import Categoricals
from sheeprl.models.normalizer import PercentileRange
from sheeprl.models.normed import JoinedLayer, NormedSiLU, normed_mlp, truncated_normal_
from sheeprl.models.rssm import RSSM, BlockGRU
from sheeprl.models.symlog import TwoHot, symlog

VECTOR_LAYERS = 3  # hidden layers of the encoder and the decoder of vectors


class SymlogEncoder(nn.Module):
    """Encodes pictures by a CNN, and symlog of the joined vectors by an MLP.

    Args:
        spaces: observation and action space.
        args: arguments of the algorithm.
    """

    def __init__(self, spaces: Spaces, args: DreamerV3Args) -> None:
        """Build the networks."""
        super().__init__()
        cnn = partial(HalvingEncoder, depth=args.widths.depth)
        self.parts = Encoder(spaces.observation, args.mlp_keys, args.cnn_keys, features=None, cnn=cnn)
        self.pictures, self.vectors = self.parts.picture_size, self.parts.size - self.parts.picture_size
        self.mlp = normed_mlp(self.vectors, args.widths.units, VECTOR_LAYERS) if self.vectors else None
        self.size = self.pictures + (args.widths.units if self.vectors else 0)
        """Length of an encoded observation."""

    def forward(self, obs: Any, batch_dims: int = 1) -> Tensor:
        """Encode observations: `[*batch, *]` to `[*batch, size]`."""
        features = self.parts(obs, batch_dims)
        if self.mlp is None:
            return cast(Tensor, features)
        vectors = self.mlp(symlog(features[..., self.pictures :]))
        return torch.cat([features[..., : self.pictures], vectors], -1) if self.pictures else vectors

    def targets(self, obs: Any, batch_dims: int) -> tuple[list[Tensor], Tensor | None]:
        """Return what the decoder reconstructs: pictures `[N, C, H, W]` and symlog of the vectors, if there are any."""
        vector = symlog(self.parts.vector(obs, batch_dims)) if self.vectors else None
        return self.parts.channels_first(obs), vector


class Decoder(nn.Module):
    """Reconstructs pictures and vectors from joined states.

    Args:
        encoder: encoder of the observations.
        deter: length of the deterministic state.
        stoch: length of the stochastic state.
        args: arguments of the algorithm.
    """

    def __init__(self, encoder: SymlogEncoder, deter: int, stoch: int, args: DreamerV3Args) -> None:
        """Build the networks."""
        super().__init__()
        widths = args.widths
        self.pictures = nn.ModuleList(
            DoublingDecoder(deter, stoch, shape, widths.depth, widths.units, args.blocks)
            for shape in encoder.parts.picture_shapes
        )
        outputs = encoder.vectors
        self.vectors = normed_mlp(deter + stoch, widths.units, VECTOR_LAYERS, outputs) if outputs else None

    def forward(self, state: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Decode states `[*, deter + stoch]` to pictures `[N, C, H, W]` of all of them, and vectors `[*, vectors]`."""
        rows = state.flatten(0, -2)
        return [decoder(rows) for decoder in self.pictures], None if self.vectors is None else self.vectors(state)


def build_latents(args: DreamerV3Args) -> Categoricals:
    """Return the kind of the stochastic state."""
    return Categoricals(args.categoricals, args.widths.classes, args.uniform_mix)


def build_rssm(tokens: int, actions: int, args: DreamerV3Args) -> RSSM:
    """Build the dynamics.

    Args:
        tokens: length of an encoded observation.
        actions: length of the vector of an action.
        args: arguments of the algorithm.
    """
    widths = args.widths
    latents = build_latents(args)
    cell = BlockGRU(widths.deter, latents.size, actions, widths.hidden, args.blocks)
    prior = normed_mlp(widths.deter, widths.hidden, 2, latents.outputs)
    joined = JoinedLayer(widths.deter, tokens, widths.hidden, NormedSiLU(widths.hidden))
    posterior = truncated_normal_(nn.Linear(widths.hidden, latents.outputs))
    return RSSM(cell, latents, prior, truncated_normal_(joined), posterior)


OUTPUT_SCALE = 0.01  # of the actor's last initial weights: the first policy is nearly uniform


class Actor(nn.Module):
    """Policy on the joined state.

    Args:
        head: distribution of the actions.
        inputs: length of the joined state.
        units: width of the three hidden layers.
    """

    def __init__(self, head: ActorHead, inputs: int, units: int) -> None:
        """Build the network."""
        super().__init__()
        self.head = head
        self.network = normed_mlp(inputs, units, 3, head.outputs, OUTPUT_SCALE)

    def forward(self, state: Tensor) -> Tensor:
        """Return the parameters of the distribution in states `[*, inputs]`."""
        return self.head.parameters(self.network(state))


class Policy(nn.Module):
    """Encoder, dynamics and actor: what players need."""

    def __init__(self, spaces: Spaces, args: DreamerV3Args) -> None:
        """Build the networks."""
        super().__init__()
        self.encoder = SymlogEncoder(spaces, args)
        head = ActorHead(spaces.action, args.uniform_mix)
        self.rssm = build_rssm(self.encoder.size, head.size, args)
        self.actor = Actor(head, self.rssm.size, args.widths.units)


def build_critic(inputs: int, units: int, bins: int) -> nn.Module:
    """Build a critic: from states `[*, inputs]` to the logits `[*, bins]` of the value's distribution."""
    return normed_mlp(inputs, units, 3, bins, 0.0)


class DreamerV3Agent(nn.Module):
    """Policy, decoder, the heads of reward and continuation, critic and slow critic, percentiles of the returns.

    Args:
        policy: encoder, dynamics and actor.
        args: arguments of the algorithm.
    """

    def __init__(self, policy: Policy, args: DreamerV3Args) -> None:
        """Build the networks."""
        super().__init__()
        self.policy = policy
        rssm, units = self.policy.rssm, args.widths.units
        self.two_hot = TwoHot()
        bins = len(self.two_hot.bins)
        self.decoder = Decoder(self.policy.encoder, rssm.cell.size, rssm.latents.size, args)
        self.reward = normed_mlp(rssm.size, units, 1, bins, 0.0)
        self.continuation = normed_mlp(rssm.size, units, 1, 1)
        self.critic = build_critic(rssm.size, units, bins)
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)
        self.returns = PercentileRange(rate=args.return_rate)
