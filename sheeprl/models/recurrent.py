"""Recurrent cells as matrix products.

`nn.LSTM` and `nn.GRU` can't be used in an agent: on CUDA they copy their weights out of the vectors that the optimizer
steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

State = dict[str, Tensor]
"""State of N sequences: tensors `[N, size]` by name."""


class Recurrent(nn.Module, ABC):
    """Base class of the cells.

    Args:
        inputs: size of the input vectors.
        size: size of the state and of the output vectors.
    """

    names: ClassVar[tuple[str, ...]] = ("hidden",)
    """Names of the state's tensors."""
    gates: ClassVar[int]
    """Number of vectors that the matrix products give."""
    has_hidden_bias: ClassVar[bool] = False
    """The product with the hidden state has a bias of its own."""
    has_input_bias: ClassVar[bool] = True
    """The product with the input has a bias."""

    def __init__(self, inputs: int, size: int) -> None:
        """Draw weights and biases uniformly from ±1 / √size, as torch does."""
        super().__init__()
        self.size = size
        self.input = nn.Linear(inputs, self.gates * size, bias=self.has_input_bias)
        self.hidden = nn.Linear(size, self.gates * size, bias=self.has_hidden_bias)
        bound = size**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def initial(self, n: int) -> State:
        """Return the state at the start of n sequences, zeros `[n, size]`, with the weights' device and dtype."""
        return {name: self.input.weight.new_zeros(n, self.size) for name in self.names}

    def state(self, tensors: Mapping[str, Any], n: int) -> State:
        """Return the state among tensors `[n, *]`, or the one at the start of n sequences if they have none."""
        return {name: tensors[name] for name in self.names} if self.names[0] in tensors else self.initial(n)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Take one step.

        Args:
            x: inputs `[N, inputs]`.
            state: state `[N, size]` before the step.

        Returns:
            The outputs `[N, size]` and the state after the step.
        """
        state = self._step(self._project(x), state)
        return state["hidden"], state

    def unroll(self, x: Tensor, state: State, is_first: Tensor) -> tuple[Tensor, State]:
        """Take T steps; the state is set to 0 before each row that begins an episode.

        Args:
            x: inputs `[T, N, inputs]`.
            state: state `[N, size]` before the first row.
            is_first: `[T, N]` booleans, true where an episode begins.

        Returns:
            The outputs `[T, N, size]` and the state after the last row.
        """
        outputs = []
        continues = ~is_first.unsqueeze(-1)
        for projected, goes_on in zip(self._project(x).unbind(0), continues.unbind(0), strict=True):
            state = self._step(projected, {name: torch.where(goes_on, part, 0.0) for name, part in state.items()})
            outputs.append(state["hidden"])
        return torch.stack(outputs), state

    def _project(self, x: Tensor) -> Tensor:
        """Return the products with the inputs, of all steps at once: `[*, inputs]` to `[*, gates × size]`."""
        return functional.linear(x, self.input.weight, self.input.bias)

    @abstractmethod
    def _step(self, projected: Tensor, state: State) -> State:
        """Return the next state: `[N, gates × size]` products with the inputs and `[N, size]` states."""


class LSTM(Recurrent):
    """Long short-term memory, Hochreiter and Schmidhuber 1997, with a forget gate. Equals `nn.LSTM` with one bias.

    i, f, o = σ(W x + U h + b), g = tanh(W x + U h + b); c' = f c + i g and h' = o tanh(c').
    """

    names = ("hidden", "cell")
    gates = 4

    def _step(self, projected: Tensor, state: State) -> State:
        """Return the next hidden and cell state."""
        gates = projected + functional.linear(state["hidden"], self.hidden.weight)
        update, forget, candidate, output = gates.chunk(4, -1)
        cell = forget.sigmoid() * state["cell"] + update.sigmoid() * candidate.tanh()
        return {"hidden": output.sigmoid() * cell.tanh(), "cell": cell}


class GRU(Recurrent):
    """Gated recurrent unit, Cho et al. 2014 (1406.1078), as in `nn.GRU`.

    r, z = σ(W x + U h + b), n = tanh(W x + b + r (U h + b')); h' = (1 − z) n + z h.
    """

    gates = 3
    has_hidden_bias = True

    def _step(self, projected: Tensor, state: State) -> State:
        """Return the next hidden state."""
        hidden = state["hidden"]
        reset_x, retain_x, candidate_x = projected.chunk(3, -1)
        product = functional.linear(hidden, self.hidden.weight, self.hidden.bias)
        reset_h, retain_h, candidate_h = product.chunk(3, -1)
        candidate = torch.tanh(candidate_x + (reset_x + reset_h).sigmoid() * candidate_h)
        retain = (retain_x + retain_h).sigmoid()
        return {"hidden": candidate + retain * (hidden - candidate)}


class LayerNormGRU(Recurrent):
    """GRU with layer normalization, of DreamerV2, Hafner et al. 2021 (2010.02193).

    r, c, u = LayerNorm(W x + U h); h' = z tanh(σ(r) c) + (1 − z) h with z = σ(u − 1), so that the state changes slowly
    at first.
    """

    gates = 3
    has_input_bias = False

    def __init__(self, inputs: int, size: int) -> None:
        """Draw the weights; the normalization starts as the identity."""
        super().__init__(inputs, size)
        self.norm = nn.LayerNorm(self.gates * size, eps=1e-3)

    def _step(self, projected: Tensor, state: State) -> State:
        """Return the next hidden state."""
        hidden = state["hidden"]
        products = self.norm(projected + functional.linear(hidden, self.hidden.weight))
        reset, candidate, update = products.chunk(3, -1)
        change = (update - 1.0).sigmoid() * ((reset.sigmoid() * candidate).tanh() - hidden)
        return {"hidden": hidden + change}
