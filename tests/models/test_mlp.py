"""Multilayer perceptrons."""

import pytest
import torch
from torch import nn

from sheeprl.models.mlp import mlp, orthogonal_


def test_mlp_equals_its_layers_called_one_by_one():
    """An MLP alternates linear layers and activations and calls them in order."""
    network = mlp(3, (4, 5), 2, "silu")
    inputs = torch.randn(6, 3)
    expected = inputs
    for layer in network:
        expected = layer(expected)
    assert torch.equal(network(inputs), expected)
    assert [type(layer) for layer in network] == [nn.Linear, nn.SiLU, nn.Linear, nn.SiLU, nn.Linear]


def test_mlp_without_hidden_layers_is_linear():
    """An MLP without hidden layers is one linear layer."""
    (layer,) = mlp(3, (), 2)
    assert (layer.in_features, layer.out_features) == (3, 2)


def test_orthogonal_initialization():
    """Weights are orthogonal with the given gains, biases are 0."""
    network = orthogonal_(mlp(4, (4,), 4), gain=2.0, output_gain=0.5)
    for layer, gain in ((network[0], 2.0), (network[-1], 0.5)):
        product = layer.weight @ layer.weight.T
        assert product.flatten().tolist() == pytest.approx((gain**2 * torch.eye(4)).flatten().tolist(), abs=1e-5)
        assert not layer.bias.any()


def test_orthogonal_initialization_of_any_module():
    """Kernels of convolutions are orthogonal as matrices; the last layer has the output gain."""
    network = nn.Sequential(nn.Conv2d(3, 4, 2), nn.ReLU(), nn.ModuleDict({"a": nn.Linear(6, 2, bias=False)})["a"])
    assert orthogonal_(network, gain=2.0, output_gain=0.5) is network
    kernel, output = network[0].weight.flatten(1), network[2].weight
    assert torch.allclose(kernel @ kernel.T, 4 * torch.eye(4), atol=1e-5)
    assert torch.allclose(output @ output.T, 0.25 * torch.eye(2), atol=1e-6)
    assert torch.all(network[0].bias == 0)
    output = orthogonal_(nn.Linear(4, 2), gain=3.0).weight
    assert torch.allclose(output @ output.T, 9 * torch.eye(2), atol=1e-5)


def test_layer_norm_precedes_each_activation():
    """Hidden layers are normalized, the output layer isn't."""
    kinds = [type(layer) for layer in mlp(3, (4, 5), 2, "relu", layer_norm=True)]
    assert kinds == [nn.Linear, nn.LayerNorm, nn.ReLU, nn.Linear, nn.LayerNorm, nn.ReLU, nn.Linear]
