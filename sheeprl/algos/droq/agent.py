"""DroQ's networks: SAC's, with dropout and layer normalization in the critics."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from sheeprl.algos.droq.args import DroQArgs
from sheeprl.algos.sac.agent import SACAgent
from sheeprl.algos.sac.args import SACArgs
from sheeprl.models import noise
from sheeprl.models.critics import Critics


class DropoutNetwork(nn.Module):
    """MLP with dropout, layer normalization and ReLU after each hidden layer.

    Args:
        inputs: size of the input vectors.
        hidden: sizes of the hidden layers.
        outputs: number of outputs.
        dropout: probability that an output of a hidden layer is set to 0.
        place: number of the network's first place in `models.noise`; each hidden layer takes one.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, dropout: float, place: int) -> None:
        """Build the layers."""
        super().__init__()
        self.dropout, self.place = dropout, place
        self.layers = nn.ModuleList(
            nn.Linear(size, out) for size, out in itertools.pairwise([inputs, *hidden, outputs])
        )
        self.norms = nn.ModuleList(nn.LayerNorm(size) for size in hidden)

    def forward(self, inputs: Tensor, seed: Tensor | None = None) -> Tensor:
        """Return the outputs `[N, outputs]`: with dropout by the seeds `[N]`, or without dropout."""
        *hidden, output = self.layers
        for number, (layer, norm) in enumerate(zip(hidden, self.norms, strict=True)):
            inputs = layer(inputs)
            if seed is not None:
                inputs = noise.dropout(inputs, self.dropout, seed, self.place + number)
            inputs = functional.relu(norm(inputs))
        result: Tensor = output(inputs)
        return result


class DropoutCritics(Critics):
    """Ensemble of `DropoutNetwork`."""

    def outputs(self, inputs: Tensor, seed: Tensor | None) -> Tensor:
        """Return the outputs `[networks, N, outputs]`: with dropout by the seeds `[N]`, or without dropout."""
        return torch.stack([network(inputs, seed) for network in self.networks], -1).movedim(-1, 0)


class DroQAgent(SACAgent):
    """SAC's agent with critics that have dropout and layer normalization."""

    ensemble = staticmethod(DropoutCritics)

    def networks(self, inputs: int, outputs: int, args: SACArgs) -> Iterator[nn.Module]:
        """Yield the critics' networks; see `SACAgent.networks`."""
        assert isinstance(args, DroQArgs)
        for number in range(args.critics):
            place = number * len(args.hidden_sizes)
            yield DropoutNetwork(inputs, args.hidden_sizes, outputs, args.dropout, place)
