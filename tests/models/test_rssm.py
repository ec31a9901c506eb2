"""Test the recurrent state-space model against NumPy and against single steps."""

import numpy as np
import pytest
import torch
from torch import nn

from sheeprl.models.hot import hot_functions
from sheeprl.models.latents import Categoricals, Gaussians
from sheeprl.models.normed import JoinedLayer, NormedSiLU, normed_mlp
from sheeprl.models.recurrent import LayerNormGRU
from sheeprl.models.rssm import RSSM, BlockGRU, DenseGRU

DETER, HIDDEN, BLOCKS, ACTIONS, TOKENS, STEPS, N = 8, 5, 2, 3, 4, 6, 2


def sigmoid(x):
    """Return 1 / (1 + exp(−x))."""
    return 1 / (1 + np.exp(-x))


def normed(x, gain):
    """Return SiLU(RMSNorm(x))."""
    x = gain * x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-4)
    return x * sigmoid(x)


def test_block_gru_equals_numpy():
    """One step equals DreamerV3's formula, computed block by block."""
    cell = BlockGRU(DETER, 6, ACTIONS, HIDDEN, BLOCKS).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    deter, stoch, action = (torch.randn(N, size, dtype=torch.float64) for size in (DETER, 6, ACTIONS))
    weights = {name: values.detach().numpy() for name, values in cell.named_parameters()}
    parts = []
    for name, x in (("deter", deter), ("stoch", stoch), ("action", action)):
        linear = x.numpy() @ weights[f"{name}_input.0.weight"].T + weights[f"{name}_input.0.bias"]
        parts.append(normed(linear, weights[f"{name}_input.1.weight"]))
    size, joined = DETER // BLOCKS, np.concatenate(parts, -1)
    mixed = np.concatenate(
        [
            np.concatenate([deter.numpy()[:, block * size : (block + 1) * size], joined], -1)
            @ weights["mixing.weight"][block]
            + weights["mixing.bias"][block]
            for block in range(BLOCKS)
        ],
        -1,
    )
    mixed = normed(mixed, weights["norm.weight"])
    expected = []
    for block in range(BLOCKS):
        own = slice(block * size, (block + 1) * size)
        gates = mixed[:, own] @ weights["gates.weight"][block] + weights["gates.bias"][block]
        reset, candidate, update = np.split(gates, 3, -1)
        update = sigmoid(update - 1)
        expected.append(update * np.tanh(sigmoid(reset) * candidate) + (1 - update) * deter.numpy()[:, own])
    result = cell(deter, stoch, cell.prepare(action))
    np.testing.assert_allclose(result.detach(), np.concatenate(expected, -1), rtol=1e-10)


def test_gradients_of_the_block_gru():
    """Gradients of inputs and weights equal finite differences."""
    cell = BlockGRU(4, 2, 2, 3, 2).double()
    inputs = [torch.randn(2, size, dtype=torch.float64, requires_grad=True) for size in (4, 2, 2)]
    assert torch.autograd.gradcheck(lambda deter, stoch, action: cell(deter, stoch, cell.prepare(action)), inputs)
    weight = cell.gates.weight

    def by_gates(values):
        """Return the next state with other weights of the gates."""
        gates = {"gates.weight": values}
        return torch.func.functional_call(cell, gates, (inputs[0], inputs[1], cell.prepare(inputs[2])))

    assert torch.autograd.gradcheck(by_gates, weight)


def build(kind):
    """Return an RSSM of a kind."""
    latents = Categoricals(2, 3) if kind == "blocks" else Gaussians(6)
    if kind == "blocks":
        cell = BlockGRU(DETER, latents.size, ACTIONS, HIDDEN, BLOCKS)
    else:
        cell = DenseGRU(LayerNormGRU(HIDDEN, DETER), latents.size, ACTIONS, HIDDEN)
    joined = JoinedLayer(DETER, TOKENS, HIDDEN, NormedSiLU(HIDDEN))
    return RSSM(
        cell, latents, normed_mlp(DETER, HIDDEN, 2, latents.outputs), joined, nn.Linear(HIDDEN, latents.outputs)
    )


@pytest.mark.parametrize("kind", ["blocks", "dense"])
def test_an_unroll_equals_single_steps(kind):
    """States equal those of single steps, and an episode's first row forgets state and action before it."""
    torch.manual_seed(0)
    rssm, generator = build(kind), torch.Generator().manual_seed(0)
    tokens, actions = torch.randn(STEPS, N, TOKENS), torch.randn(STEPS, N, ACTIONS)
    is_first = torch.zeros(STEPS, N, dtype=torch.bool)
    is_first[2, 0] = is_first[4, 1] = True
    noise = rssm.latents.draw((STEPS, N), generator)
    start = (torch.randn(N, DETER), rssm.latents.sample(torch.randn(N, rssm.latents.outputs), noise[0]))
    observed = rssm.observe(tokens, actions, is_first, start, noise)
    deter, stoch = start
    for t in range(STEPS):
        keep = (~is_first[t]).float().unsqueeze(-1)
        deter = rssm.cell(deter * keep, stoch * keep, rssm.cell.prepare(actions[t] * keep))
        stoch = rssm.infer(deter, tokens[t], noise[t])
        torch.testing.assert_close((observed.deter[t], observed.stoch[t]), (deter, stoch))
        torch.testing.assert_close(observed.prior[t], rssm.prior(deter))
    other = rssm.observe(tokens[2:], actions[2:] + 1, is_first[2:], (start[0] + 1, start[1]), noise[2:])
    torch.testing.assert_close(other.deter[0, 0], observed.deter[2, 0])


@pytest.mark.parametrize("kind", ["blocks", "dense"])
def test_a_compiled_unroll_equals_its_steps(kind):
    """Gradients of weights and inputs equal those of autograd through the steps, whichever results a loss uses."""
    torch.manual_seed(0)
    rssm = build(kind).double()
    inputs = [torch.randn(*shape, dtype=torch.float64) for shape in ((STEPS, N, TOKENS), (STEPS, N, ACTIONS))]
    inputs += [torch.randn(N, size, dtype=torch.float64) for size in (DETER, rssm.latents.size)]
    tokens, actions, deter, stoch = (each.requires_grad_() for each in inputs)
    is_first = torch.zeros(STEPS, N, dtype=torch.bool)
    is_first[3, 0] = True
    keep = (~is_first).double().unsqueeze(-1)
    noise = rssm.latents.draw((STEPS, N), torch.Generator().manual_seed(0)).double()
    called = []

    def compiler(function, examples):
        """Call the function itself, and count the calls."""

        def library(inputs):
            called.append(function.__name__)
            assert [each.shape for each in inputs] == [each.shape for each in examples]
            assert [each.stride() for each in inputs] == [each.stride() for each in examples]
            return function(*inputs)

        return library

    with hot_functions(compiler):
        observed = rssm.observe(tokens, actions, is_first, (deter, stoch), noise)
    assert called == ["hot_step"] * STEPS
    known = (rssm.cell.prepare(actions * keep), rssm.joined.prepare(tokens), keep, noise)
    steps = [torch.stack(parts) for parts in rssm.steps(*known, deter, stoch)]
    results = [observed.deter, observed.stoch, observed.posterior]
    torch.testing.assert_close(results, steps)
    differentiated = [*inputs, *rssm.cell.parameters(), *rssm.joined.parameters(), *rssm.posterior.parameters()]
    for used in ([0, 1, 2], [0], [1], [2]):
        factors = [torch.randn_like(steps[number]) for number in used]
        by_unroll, by_steps = (
            torch.autograd.grad([kind[number] for number in used], differentiated, factors, retain_graph=True)
            for kind in (results, steps)
        )
        torch.testing.assert_close(by_unroll, by_steps)


def test_imagination_samples_from_the_prior():
    """A step without an observation takes the state from the prior."""
    rssm = build("blocks")
    deter, stoch, action, noise = torch.randn(N, DETER), torch.rand(N, 6), torch.randn(N, ACTIONS), torch.rand(N, 2)
    after, sample = rssm.imagine(deter, stoch, action, noise)
    torch.testing.assert_close(after, rssm.cell(deter, stoch, rssm.cell.prepare(action)))
    torch.testing.assert_close(sample, rssm.latents.sample(rssm.prior(after), noise))
    assert torch.cat([after, sample], -1).shape[-1] == rssm.size
