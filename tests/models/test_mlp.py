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
