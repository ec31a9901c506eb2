"""Recurrent cells."""

import math

import pytest
import torch
from torch import nn, tensor

from sheeprl.models.mlp import orthogonal_
from sheeprl.models.recurrent import GRU, LSTM, LayerNormGRU

CELLS = [LSTM, GRU, LayerNormGRU]
T, N, INPUTS, SIZE = 7, 3, 4, 5


def case(cell_class):
    """Return a cell, inputs `[T, N, INPUTS]` and a random state."""
    torch.manual_seed(0)
    cell = cell_class(INPUTS, SIZE)
    return cell, torch.randn(T, N, INPUTS), {name: torch.randn(N, SIZE) for name in cell.initial(N)}


def no_starts():
    """Return flags of rows that begin no episode."""
    return torch.zeros(T, N, dtype=torch.bool)


def test_lstm_equals_that_of_torch():
    """Outputs, states and gradients are equal, the two biases of torch being one."""
    cell, x, state = case(LSTM)
    reference = nn.LSTM(INPUTS, SIZE)
    weights = (cell.input.weight, cell.hidden.weight, cell.input.bias, torch.zeros(4 * SIZE))
    with torch.no_grad():
        for own, other in zip(reference.parameters(), weights, strict=True):
            own.copy_(other)
    expected, (hidden, memory) = reference(x, (state["hidden"][None], state["cell"][None]))
    output, last = cell.unroll(x, state, no_starts())
    assert torch.allclose(output, expected, atol=1e-6)
    assert torch.allclose(last["hidden"], hidden[0], atol=1e-6) and torch.allclose(last["cell"], memory[0], atol=1e-6)
    output.square().sum().backward()
    expected.square().sum().backward()
    assert torch.allclose(cell.input.weight.grad, reference.weight_ih_l0.grad, atol=1e-5)
    assert torch.allclose(cell.hidden.weight.grad, reference.weight_hh_l0.grad, atol=1e-5)
    assert torch.allclose(cell.input.bias.grad, reference.bias_ih_l0.grad, atol=1e-5)


def test_gru_equals_that_of_torch():
    """Outputs and states are equal, with both biases."""
    cell, x, state = case(GRU)
    reference = nn.GRU(INPUTS, SIZE)
    weights = (cell.input.weight, cell.hidden.weight, cell.input.bias, cell.hidden.bias)
    with torch.no_grad():
        for own, other in zip(reference.parameters(), weights, strict=True):
            own.copy_(other)
    expected, hidden = reference(x, state["hidden"][None])
    output, last = cell.unroll(x, state, no_starts())
    assert torch.allclose(output, expected, atol=1e-6) and torch.allclose(last["hidden"], hidden[0], atol=1e-6)


def test_layer_norm_gru_of_one_unit():
    """With inputs that the normalization maps to 1.2247, 0, −1.2247, the state is computed by hand."""
    cell = LayerNormGRU(1, 1)
    with torch.no_grad():
        cell.input.weight.copy_(tensor([[100.0], [0.0], [-100.0]]))
        cell.hidden.weight.zero_()
        cell.norm.bias[1] = 2.0
    output, state = cell(tensor([[1.0]]), {"hidden": tensor([[0.5]])})
    r, u = 1.5**0.5, -(1.5**0.5)
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    z = sigmoid(u - 1)
    expected = z * math.tanh(sigmoid(r) * 2.0) + (1 - z) * 0.5
    assert output.item() == pytest.approx(expected, abs=1e-5) and torch.equal(state["hidden"], output)


@pytest.mark.parametrize("cell_class", CELLS)
def test_unrolling_equals_single_steps(cell_class):
    """A player's steps, with the state set to 0 at first rows, give the outputs of the loss."""
    cell, x, state = case(cell_class)
    is_first = torch.rand(T, N, generator=torch.Generator().manual_seed(1)) < 0.3
    output, last = cell.unroll(x, state, is_first)
    for t in range(T):
        state = {name: torch.where(is_first[t, :, None], 0.0, part) for name, part in state.items()}
        step, state = cell(x[t], state)
        assert torch.allclose(step, output[t], atol=1e-6)
    assert last.keys() == state.keys() and all(torch.allclose(last[name], state[name], atol=1e-6) for name in state)


@pytest.mark.parametrize("cell_class", CELLS)
def test_nothing_passes_the_start_of_an_episode(cell_class):
    """Outputs from a first row on equal those of a new sequence; NaN and gradients of before don't reach them."""
    cell, x, state = case(cell_class)
    is_first = no_starts()
    is_first[3] = True
    x = x.clone()
    x[:3] = torch.nan
    x.requires_grad_()
    output, _ = cell.unroll(x, {name: part * torch.nan for name, part in state.items()}, is_first)
    expected, _ = cell.unroll(x[3:], cell.initial(N), is_first[3:])
    assert torch.equal(output[3:], expected) and output[3:].isfinite().all()
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    assert torch.all(gradient[:3] == 0) and torch.all(gradient[3:].abs().sum(-1) > 0)


@pytest.mark.parametrize("cell_class", CELLS)
def test_states_start_at_0_in_the_dtype_of_the_weights(cell_class):
    """The state's tensors are float and of the cell's size."""
    cell = cell_class(INPUTS, SIZE).double()
    state = cell.initial(2)
    assert all(part.shape == (2, SIZE) and part.dtype == torch.float64 and not part.any() for part in state.values())
    assert sorted(state) == (["cell", "hidden"] if cell_class is LSTM else ["hidden"])


def test_orthogonal_initialization_of_a_cell():
    """The weights become orthogonal and the biases 0."""
    cell = orthogonal_(LSTM(4, 5))
    assert torch.allclose(cell.hidden.weight.T @ cell.hidden.weight, torch.eye(5), atol=1e-5)
    assert not cell.input.bias.any()
