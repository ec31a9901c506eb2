"""Test normalized layers against NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from sheeprl.models.normed import BlockLinear, JoinedLayer, NormedSiLU, RMSNorm, normed_mlp, truncated_normal_


def rms(x, gain, axis=-1):
    """Return NumPy's root-mean-square normalization."""
    return gain * x / np.sqrt(np.mean(x**2, axis, keepdims=True) + 1e-4)


def test_rms_norm():
    """Vectors and channels of pictures equal NumPy's result."""
    x, norm = torch.randn(3, 4), RMSNorm(4)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    np.testing.assert_allclose(norm(x).detach(), rms(x.numpy(), norm.weight.detach().numpy()), rtol=1e-5)
    pictures, channels = torch.randn(2, 4, 3, 3), RMSNorm(4, axis=-3)
    channels.weight = norm.weight
    gain = norm.weight.detach().numpy()[:, None, None]
    np.testing.assert_allclose(channels(pictures).detach(), rms(pictures.numpy(), gain, -3), rtol=1e-5)


def test_normed_silu_equals_its_parts():
    """Value and gradients equal those of RMSNorm and SiLU."""
    together, norm = NormedSiLU(5).double(), RMSNorm(5).double()
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    together.load_state_dict(norm.state_dict())
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(together(x), nn.functional.silu(norm(x)))
    assert torch.autograd.gradcheck(together, x)
    found = torch.autograd.grad(together(x).square().sum(), [x, together.weight])
    expected = torch.autograd.grad(nn.functional.silu(norm(x)).square().sum(), [x, norm.weight])
    torch.testing.assert_close(found, expected)


def test_normed_silu_without_gradients():
    """The path without gradients returns the same bits and leaves its input as it is."""
    layer, x = NormedSiLU(6), torch.randn(4, 6)
    before = x.clone()
    with torch.no_grad():
        result = layer(x)
    assert torch.equal(result, layer(x).detach()) and torch.equal(x, before)


def test_block_linear_is_a_block_diagonal_matrix():
    """Each block of the output depends on its block of the input only."""
    layer, x = BlockLinear(3, 2, 4), torch.randn(4, 5, 3)
    nn.init.normal_(layer.bias)
    y = layer(x)
    for block in range(4):
        torch.testing.assert_close(y[block], x[block] @ layer.weight[block] + layer.bias[block])


def test_a_joined_layer_equals_one_layer_on_both_inputs():
    """The prepared product and the product of the step add up."""
    layer = JoinedLayer(3, 2, 4, NormedSiLU(4))
    x, known = torch.randn(5, 3), torch.randn(5, 2)
    expected = layer.activation(layer.linear(torch.cat([x, known], -1)))
    torch.testing.assert_close(layer(x, layer.prepare(known), layer.step_weight()), expected)


def test_truncated_normals():
    """Weights have the deviation 1 / sqrt(inputs) and a bound, biases are 0; the output layer is scaled."""
    torch.manual_seed(0)
    layer = truncated_normal_(nn.Conv2d(4, 200, 5))
    assert layer.weight.std().item() == pytest.approx(0.1, rel=0.03)
    assert layer.weight.abs().max() < 0.1 * 2 / 0.879
    assert not layer.bias.any()
    network = normed_mlp(400, 100, 2, 50, scale=0.0)
    assert not network[-1].weight.any() and network[0].weight.std().item() == pytest.approx(0.05, rel=0.03)
    assert [type(layer) for layer in network] == [*[nn.Linear, NormedSiLU] * 2, nn.Linear]
