"""Recurrent state-space model (RSSM), Hafner et al. 2019 (1811.04551): the dynamics of all Dreamers.

The state joins a deterministic vector h, of a recurrent cell, and a stochastic vector z. The prior predicts z from h.
The posterior knows the observation too.

h_t = cell(h_{t−1}, z_{t−1}, a_{t−1}), z_t ~ posterior(h_t, x_t) or, without an observation, z_t ~ prior(h_t).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from sheeprl.models import hot
from sheeprl.models.latents import Latents
from sheeprl.models.normed import BlockLinear, JoinedLayer, NormedSiLU, truncated_normal_
from sheeprl.models.recurrent import Recurrent

INPUTS, RESULTS = 6, 3  # of a step of a sequence


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
        """Return the action's part of W [h_block, u] of all blocks, joined: `[*, actions]` to `[*, size]`."""
        inputs = self.action_input(action)
        weight = self._joined(slice(-inputs.shape[-1], None))
        return functional.linear(inputs, weight.t(), self.mixing.bias.flatten())

    def step_weights(self) -> Sequence[Tensor]:
        """Return the parts of W for the state of the block, and for the inputs from state and stochastic state."""
        weight, own = self.mixing.weight, self.size // self.blocks
        hidden = (weight.shape[1] - own) // 3
        return weight[:, :own], self._joined(slice(own, own + 2 * hidden))

    def _joined(self, rows: slice) -> Tensor:
        """Return rows of W that all blocks multiply by the same vector, joined along the outputs: `[rows, size]`."""
        return self.mixing.weight[:, rows].transpose(0, 1).flatten(1)

    def forward(
        self, deter: Tensor, stoch: Tensor, prepared: Tensor, weights: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Take one step."""
        n, blocks = deter.shape[0], self.blocks
        of_state, of_inputs = weights or self.step_weights()
        inputs = torch.cat([self.deter_input(deter), self.stoch_input(stoch)], -1)
        own = deter.view(n, blocks, -1).transpose(0, 1)
        shared = torch.addmm(prepared, inputs, of_inputs)
        mixed = torch.baddbmm(shared.view(n, blocks, -1).transpose(0, 1), own, of_state)
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
    """

    def __init__(self, cell: Recurrent, stoch: int, actions: int, hidden: int) -> None:
        """Build the dense layer."""
        super().__init__()
        self.size, self.cell = cell.size, cell
        self.input = JoinedLayer(stoch, actions, hidden, nn.ELU())

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

    @cached_property
    def features(self) -> Tensor:
        """Return the joined states `[T, N, deter + stoch]`."""
        return torch.cat([self.deter, self.stoch], -1)

    def detached(self) -> dict[str, Tensor]:
        """Return the states by name, without gradients."""
        return {"deter": self.deter.detach(), "stoch": self.stoch.detach()}


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
        known = (self.cell.prepare(previous_action * keep), self.joined.prepare(tokens), keep, noise)
        found = self._compiled_unroll(*known, *state) if torch.is_grad_enabled() else None
        deter, stoch, posterior = found or (torch.stack(steps) for steps in self.steps(*known, *state))
        return Observed(deter, stoch, posterior, self.prior(deter))

    def steps(
        self, actions: Tensor, tokens: Tensor, keep: Tensor, noise: Tensor, deter: Tensor, stoch: Tensor
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Take the steps of a sequence one after the other.

        Args:
            actions: prepared actions `[T, N, *]`.
            tokens: prepared tokens `[T, N, *]`.
            keep: `[T, N, 1]`, 0 where an episode begins, else 1.
            noise: `[T, N, *]`, noise of the samples.
            deter: `[N, deter]`, before the first step.
            stoch: `[N, stoch]`, before the first step.

        Returns:
            Deterministic states, stochastic states and outputs of the posterior, of each step.
        """
        weight, weights = self.joined.step_weight(), self.cell.step_weights()
        deters, stochs, outputs = [], [], []
        rows = (each.unbind(0) for each in (actions, tokens, keep, noise))
        for action, token, factor, drawn in zip(*rows, strict=True):
            deter = self.cell(deter * factor, stoch * factor, action, weights)
            output = self.posterior(self.joined(deter, token, weight))
            stoch = self.latents.sample(output, drawn)
            deters.append(deter)
            stochs.append(stoch)
            outputs.append(output)
        return deters, stochs, outputs

    def all_steps(
        self, actions: Tensor, tokens: Tensor, before: Tensor, stoch: Tensor, deter: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take all steps of a sequence at once, from known states.

        Args:
            actions: prepared actions `[T, N, *]`.
            tokens: prepared tokens `[T, N, *]`.
            before: deterministic states before each step `[T, N, deter]`.
            stoch: stochastic states before each step `[T, N, stoch]`.
            deter: deterministic states after each step `[T, N, deter]`.

        Returns:
            `[T, N, *]` deterministic states after each step, from those before, and outputs of the posterior, from
            those after.
        """
        shape = deter.shape[:2]
        actions, tokens, before, stoch, deter = (each.flatten(0, 1) for each in (actions, tokens, before, stoch, deter))
        after = self.cell(before, stoch, actions)
        output = self.posterior(self.joined(deter, tokens, self.joined.step_weight()))
        return after.view(*shape, -1), output.view(*shape, -1)

    def forward(
        self, deter: Tensor, stoch: Tensor, action: Tensor, token: Tensor, keep: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take one step of `steps`; return deterministic state, stochastic state and output of the posterior."""
        deter = self.cell(deter * keep, stoch * keep, action)
        output = self.posterior(self.joined(deter, token, self.joined.step_weight()))
        return deter, self.latents.sample(output, noise), output

    def hot_step(self, *tensors: Tensor) -> list[Tensor]:
        """Take one step, given the inputs of `forward` and the weights; return its results."""
        inputs, weights = tensors[:INPUTS], tensors[INPUTS:]
        return list(functional_call(self, dict(zip(self._names(), weights, strict=True)), inputs))

    def hot_gradients(self, *tensors: Tensor) -> list[Tensor]:
        """Differentiate one step, given the gradients of its results, the inputs of `forward` and the weights.

        Returns:
            The gradients of the deterministic and the stochastic state before the step, and the total ones of the
            deterministic state after it and of the output, with those through the sample.
        """
        outer, inputs, weights = tensors[:RESULTS], tensors[RESULTS : RESULTS + INPUTS], tensors[RESULTS + INPUTS :]
        with torch.enable_grad():
            before = [each.detach().requires_grad_() for each in inputs[:2]]
            named = dict(zip(self._names(), weights, strict=True))
            deter, stoch, output = functional_call(self, named, (*before, *inputs[2:]))
            results = (deter.view_as(deter), stoch, output.view_as(output))
            return list(torch.autograd.grad(results, [*before, deter, output], outer))

    def _names(self) -> list[str]:
        """Return the names of the weights."""
        return [name for name, _ in self.named_parameters()]

    def _compiled_unroll(
        self, actions: Tensor, tokens: Tensor, keep: Tensor, noise: Tensor, deter: Tensor, stoch: Tensor
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """Take the steps of a sequence with compiled functions; see `steps`.

        Backpropagation through time computes in each step the gradient of the state alone. The gradients of weights,
        actions and tokens take one pass over all steps at once, with large matrix products.

        Returns:
            Deterministic states, stochastic states and outputs of the posterior, `[T, N, *]` each; None if nothing
            compiles the functions.
        """
        weights = [weight.detach() for weight in self.parameters()]
        start = [each.detach().contiguous() for each in (deter, stoch)]
        known = (each.detach().contiguous() for each in (actions, tokens, keep, noise))
        rows = [[*row] for row in zip(*known, strict=True)]
        step = hot.compiled(self.hot_step, [*start, *rows[0], *weights])
        outer = [torch.empty_like(each) for each in (*start, self._output_of(start[0]))]
        differentiate = hot.compiled(self.hot_gradients, [*outer, *start, *rows[0], *weights])
        if step is None or differentiate is None:
            return None
        states, outputs = [start], []
        with torch.no_grad():
            for row in rows:
                *state, output = step([*states[-1], *row, *weights])
                states.append(state)
                outputs.append(output)
            deters, stochs = (torch.stack(parts) for parts in zip(*states, strict=True))
            before = (deters[:-1] * keep, stochs[:-1] * keep)
        after, output = self.all_steps(actions, tokens, *before, deters[1:])
        inputs = [[*state, *row, *weights] for state, row in zip(states, rows, strict=False)]
        results = (deters[1:], stochs[1:], torch.stack(outputs))
        unrolled: tuple[Tensor, Tensor, Tensor] = _ThroughTime.apply(  # type: ignore[no-untyped-call]
            differentiate, inputs, results, after, output, deter, stoch
        )
        return unrolled

    def _output_of(self, like: Tensor) -> Tensor:
        """Return an empty output of the posterior for as many samples as a state has."""
        return like.new_empty(like.shape[0], self.latents.outputs)


class _ThroughTime(torch.autograd.Function):
    """Backpropagation through time as one node of autograd, after a pass over all steps at once."""

    @staticmethod
    def forward(
        ctx: Any,
        differentiate: hot.Compiled,
        inputs: Sequence[list[Tensor]],
        results: tuple[Tensor, Tensor, Tensor],
        after: Tensor,
        output: Tensor,
        deter: Tensor,
        stoch: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the results of the unroll.

        Args:
            ctx: context of the node.
            differentiate: compiled `RSSM.hot_gradients`.
            inputs: inputs of each step.
            results: deterministic states, stochastic states and outputs `[T, N, *]` of the unroll.
            after: deterministic states of the pass over all steps, which get the total gradients.
            output: outputs of the pass over all steps, which get the total gradients.
            deter: `[N, deter]`, before the first step.
            stoch: `[N, stoch]`, before the first step.
        """
        ctx.differentiate, ctx.inputs = differentiate, inputs
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the two results of the pass over all steps, and of the state before the first."""
        rows = list(zip(*(each.contiguous() for each in gradients), strict=True))
        by_deter, by_stoch = (torch.zeros_like(each) for each in rows[0][:2])
        totals = []
        for (deter, stoch, output), inputs in zip(reversed(rows), reversed(ctx.inputs), strict=True):
            by_deter, by_stoch, *total = ctx.differentiate([deter + by_deter, stoch + by_stoch, output, *inputs])
            totals.append(total)
        by_after, by_output = (torch.stack(each) for each in zip(*reversed(totals), strict=True))
        return None, None, None, by_after, by_output, by_deter, by_stoch
