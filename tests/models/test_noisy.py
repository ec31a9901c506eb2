"""Noisy layers: their noise against explicit weights, and their values without noise."""

import torch

from sheeprl.models.noise import normal, seeds
from sheeprl.models.noisy import NoisyLinear, NoisyMLP


def test_noise_equals_noisy_weights():
    """Each sample's output is that of a layer with weights W + Σ ∘ f(ε_out) f(ε_in)ᵀ and biases b + σ ∘ f(ε_out)."""
    layer, inputs = NoisyLinear(3, 2, 0.5, place=7), torch.rand(4, 3)
    seed = seeds(torch.Size([4]), torch.Generator().manual_seed(0))
    found = layer(inputs, seed)
    for sample in range(4):
        noise = normal(seed[sample : sample + 1], 7, (5,))[0]
        noise = noise.sign() * noise.abs().sqrt()
        noise_in, noise_out = noise[:3], noise[3:]
        weight = layer.weight + layer.weight_noise * torch.outer(noise_out, noise_in)
        expected = weight @ inputs[sample] + layer.bias + layer.bias_noise * noise_out
        torch.testing.assert_close(found[sample], expected)


def test_without_seeds_the_output_is_the_mean():
    """Without noise, a network is a plain MLP, on any batch shape."""
    network, inputs = NoisyMLP(3, (4,), 2, 0.5), torch.rand(2, 5, 3)
    hidden = torch.relu(inputs @ network.layers[0].weight.T + network.layers[0].bias)
    torch.testing.assert_close(network(inputs), hidden @ network.layers[1].weight.T + network.layers[1].bias)


def test_layers_have_different_noise():
    """Layers of one network draw from different places."""
    network = NoisyMLP(3, (3, 3), 3, 0.5, place=10)
    assert [layer.place for layer in network.layers] == [10, 11, 12]
    assert [round(float(layer.weight_noise.detach().mean()), 6) for layer in network.layers] == [0.288675] * 3
