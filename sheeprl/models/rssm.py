"""Recurrent state-space model (RSSM), Hafner et al. 2019 (1811.04551): the dynamics of all Dreamers.

The state joins a deterministic vector h, of a recurrent cell, and a stochastic vector z. The prior predicts z from h.
The posterior knows the observation too.

h_t = cell(h_{t−1}, z_{t−1}, a_{t−1}), z_t ~ posterior(h_t, x_t) or, without an observation, z_t ~ prior(h_t).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sheeprl.models.latents import Latents
from sheeprl.models.normed import BlockLinear, JoinedLayer, NormedSiLU, truncated_normal_
from sheeprl.models.recurrent import LayerNormGRU, Recurrent


class Cell(nn.Module, ABC):
    """Recurrent cell of an RSSM.

    Attributes:
        size: length of the deterministic state.
    """

    size: int

    @abstractmethod
    def prepare(self, action: Tensor) -> Tensor:
        """Return what a step needs of its action, for all steps at once: `[*, actions]` to `[*, prepared]`."""

    def step_weights(self) -> Sequence[Tensor]:
        """Return slices of weights that a step needs. An unroll slices them once, not in each step."""
        return ()

    @abstractmethod
    def forward(
        self, deter: Tensor, stoch: Tensor, prepared: Tensor, weights: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Return the next deterministic state `[N, size]`; `weights` is the result of `step_weights()`."""


class _Gates(torch.autograd.Function):
    """h' = σ(g − 1) tanh(σ(r) c) + (1 − σ(g − 1)) h as one node of autograd, with few temporary tensors."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, state: Tensor) -> Tensor:
        """Return the next state `[*, n]` for r, c, g, joined to `[*, 3 n]`, and the state `[*, n]`."""
        reset, candidate, update = gates.chunk(3, -1)
        reset, update = reset.sigmoid(), (update - 1.0).sigmoid_()
        proposal = (reset * candidate).tanh_()
        difference = proposal - state
        ctx.save_for_backward(reset, candidate, update, proposal, difference)
        return torch.addcmul(state, update, difference)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of the gates and of the state."""
        reset, candidate, update, proposal, difference = ctx.saved_tensors
        (outer,) = gradients
        by_proposal = outer * update
        by_state = outer - by_proposal
        by_product = torch.ops.aten.tanh_backward(by_proposal, proposal)
        by_reset = torch.ops.aten.sigmoid_backward(by_product * candidate, reset)
        by_update = torch.ops.aten.sigmoid_backward(outer * difference, update)
        return torch.cat([by_reset, by_product.mul_(reset), by_update], -1), by_state


class BlockGRU(Cell):
    """Gated recurrent unit in blocks, of DreamerV3.

    Each of h, z and a passes a linear layer, RMSNorm and SiLU to u. In every block, x = SiLU(RMSNorm(W [h_block, u]))
    and r, c, g = V x. Then h' = σ(g − 1) tanh(σ(r) c) + (1 − σ(g − 1)) h. RMSNorm is over all blocks.

    Args:
        size: size of the state.
        stoch: size of the stochastic state.
        actions: size of the action vector.
        hidden: size of each of the three input layers.
        blocks: number of blocks, a divisor of `size`.
    """

    def __init__(self, size: int, stoch: int, actions: int, hidden: int, blocks: int) -> None:
        """Build the layers."""
        super().__init__()
        self.size, self.blocks = size, blocks
        self.deter_input = nn.Sequential(nn.Linear(size, hidden), NormedSiLU(hidden))
        self.stoch_input = nn.Sequential(nn.Linear(stoch, hidden), NormedSiLU(hidden))
        self.action_input = nn.Sequential(nn.Linear(actions, hidden), NormedSiLU(hidden))
        truncated_normal_(self.deter_input), truncated_normal_(self.stoch_input), truncated_normal_(self.action_input)
        self.mixing = BlockLinear(size // blocks + 3 * hidden, size // blocks, blocks)
        self.norm = NormedSiLU(size)
        self.gates = BlockLinear(size // blocks, 3 * size // blocks, blocks)

    def prepare(self, action: Tensor) -> Tensor:
        """Return the action's part of W [h_block, u]: `[*, N, actions]` to `[*, blocks, N, size / blocks]`."""
        inputs = self.action_input(action)
        rows = inputs.flatten(0, -2)
        weight = self.mixing.weight[:, -inputs.shape[-1] :]
        product = torch.baddbmm(self.mixing.bias, rows.expand(self.blocks, -1, -1), weight)
        return product.view(self.blocks, *inputs.shape[:-1], -1).movedim(0, -3)

    def step_weights(self) -> Sequence[Tensor]:
        """Return the parts of W for the state of the block, and for the inputs from state and stochastic state."""
        weight, own = self.mixing.weight, self.size // self.blocks
        hidden = (weight.shape[1] - own) // 3
        return weight[:, :own], weight[:, own : own + 2 * hidden]

    def forward(
        self, deter: Tensor, stoch: Tensor, prepared: Tensor, weights: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Take one step."""
        n, blocks = deter.shape[0], self.blocks
        of_state, of_inputs = weights or self.step_weights()
        inputs = torch.cat([self.deter_input(deter), self.stoch_input(stoch)], -1)
        own = deter.view(n, blocks, -1).transpose(0, 1)
        mixed = torch.baddbmm(prepared, inputs.expand(blocks, -1, -1), of_inputs)
        mixed = torch.baddbmm(mixed, own, of_state)
        mixed = self.norm(mixed.transpose(0, 1).reshape(n, -1))
        gates = self.gates(mixed.view(n, blocks, -1).transpose(0, 1))
        following: Tensor = _Gates.apply(gates, own)  # type: ignore[no-untyped-call]
        return following.transpose(0, 1).reshape(n, -1)


class DenseGRU(Cell):
    """Cell of the first Dreamers: a dense layer on z and a, then a gated recurrent unit.

    Args:
        cell: the gated recurrent unit.
        stoch: size of the stochastic state.
        actions: size of the action vector.
        hidden: size of the dense layer.
        norm: normalize the outputs of the dense layer.
    """

    def __init__(self, cell: Recurrent, stoch: int, actions: int, hidden: int, norm: bool) -> None:
        """Build the dense layer."""
        super().__init__()
        self.size, self.cell = cell.size, cell
        activation = nn.Sequential(nn.LayerNorm(hidden), nn.ELU()) if norm else nn.ELU()
        self.input = JoinedLayer(stoch, actions, hidden, activation)

    def prepare(self, action: Tensor) -> Tensor:
        """Return the products of the dense layer with the action."""
        prepared: Tensor = self.input.prepare(action)
        return prepared

    def step_weights(self) -> Sequence[Tensor]:
        """Return the dense layer's weight of z."""
        return (self.input.step_weight(),)

    def forward(
        self, deter: Tensor, stoch: Tensor, prepared: Tensor, weights: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Take one step."""
        (weight,) = weights or self.step_weights()
        output, _ = self.cell.forward(self.input(stoch, prepared, weight), {"hidden": deter})
        return output


@dataclass(frozen=True)
class Observed:
    """States of a sequence, inferred from its observations.

    Args:
        deter: deterministic states `[T, N, deter]`.
        stoch: samples of the posteriors `[T, N, stoch]`.
        posterior: outputs that parametrize the posteriors `[T, N, outputs]`.
        prior: outputs that parametrize the priors `[T, N, outputs]`.
    """

    deter: Tensor
    stoch: Tensor
    posterior: Tensor
    prior: Tensor

    @property
    def features(self) -> Tensor:
        """Return the joined states `[T, N, deter + stoch]`."""
        return torch.cat([self.deter, self.stoch], -1)


class RSSM(nn.Module):
    """Recurrent state-space model.

    Args:
        cell: recurrent cell.
        latents: kind of the stochastic state.
        prior: network from h to the prior's output.
        joined: first layer of the posterior, on h and the encoded observation.
        posterior: remaining layers of the posterior.
    """

    def __init__(
        self, cell: Cell, latents: Latents, prior: nn.Module, joined: JoinedLayer, posterior: nn.Module
    ) -> None:
        """Store the parts."""
        super().__init__()
        self.cell, self.latents = cell, latents
        self.prior, self.joined, self.posterior = prior, joined, posterior

    @property
    def size(self) -> int:
        """Return the length of the joined state."""
        return self.cell.size + self.latents.size

    def imagine(
        self, deter: Tensor, stoch: Tensor, action: Tensor, noise: Tensor, weights: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Take one step without an observation.

        Args:
            deter: `[N, deter]`.
            stoch: `[N, stoch]`.
            action: `[N, actions]`, chosen in this state.
            noise: noise of the sample from the prior.
            weights: result of the cell's `step_weights()`, for several steps.

        Returns:
            The next deterministic and stochastic state.
        """
        deter = self.cell(deter, stoch, self.cell.prepare(action), weights)
        return deter, self.latents.sample(self.prior(deter), noise)

    def infer(self, deter: Tensor, tokens: Tensor, noise: Tensor) -> Tensor:
        """Return a sample of the posterior `[N, stoch]` of an observation, encoded as `tokens`, `[N, tokens]`."""
        output = self.posterior(self.joined(deter, self.joined.prepare(tokens), self.joined.step_weight()))
        return self.latents.sample(output, noise)

    def observe(
        self,
        tokens: Tensor,
        previous_action: Tensor,
        is_first: Tensor,
        state: tuple[Tensor, Tensor],
        noise: Tensor,
    ) -> Observed:
        """Infer the states of a sequence; state and action before a row that begins an episode count as 0.

        Args:
            tokens: encoded observations `[T, N, tokens]`.
            previous_action: `[T, N, actions]`, chosen in the row before each row.
            is_first: `[T, N]` booleans.
            state: deterministic and stochastic state before the first row.
            noise: `[T, N, *]`, noise of the samples.
        """
        keep = (~is_first).unsqueeze(-1).to(tokens.dtype)
        actions = self.cell.prepare(previous_action * keep)
        prepared, weight, weights = self.joined.prepare(tokens), self.joined.step_weight(), self.cell.step_weights()
        deter, stoch = state
        deters, stochs, outputs = [], [], []
        rows = (each.unbind(0) for each in (actions, prepared, keep, noise))
        for action, token, factor, drawn in zip(*rows, strict=True):
            deter = self.cell(deter * factor, stoch * factor, action, weights)
            output = self.posterior(self.joined(deter, token, weight))
            stoch = self.latents.sample(output, drawn)
            deters.append(deter)
            stochs.append(stoch)
            outputs.append(output)
        joined = torch.stack(deters)
        return Observed(joined, torch.stack(stochs), torch.stack(outputs), self.prior(joined))


def layer_norm_gru(stoch: int, actions: int, size: int, hidden: int) -> DenseGRU:
    """Build the cell of DreamerV2."""
    return DenseGRU(LayerNormGRU(hidden, size), stoch, actions, hidden, norm=True)
