"""Noisy layers: their noise against explicit weights, and their values without noise."""

import torch

from sheeprl.models.noisy import NoisyLinear, NoisyMLP, factors


def explicit(layer, inputs, noise):
    """Return the output of a layer with weights W + Σ ∘ f(ε_out) f(ε_in)ᵀ and biases b + σ ∘ f(ε_out)."""
    noise_in, noise_out = noise[: len(inputs)], noise[len(inputs) :]
    weight = layer.weight + layer.weight_noise * torch.outer(noise_out, noise_in)
    return weight @ inputs + layer.bias + layer.bias_noise * noise_out


def test_noise_equals_noisy_weights():
    """Noise of a batch or of each sample is that of noisy weights and biases."""
    layer, inputs = NoisyLinear(3, 2, 0.5), torch.rand(4, 3)
    noise = factors((4, layer.noise_size), torch.Generator().manual_seed(0))
    alone = torch.stack([explicit(layer, *sample) for sample in zip(inputs, noise, strict=True)])
    torch.testing.assert_close(layer(inputs, noise), alone)
    shared = torch.stack([explicit(layer, sample, noise[0]) for sample in inputs])
    torch.testing.assert_close(layer(inputs, noise[0]), shared)


def test_factors_are_signed_roots_of_normal_noise():
    """Factors keep the sign, and their squares are the sizes of standard normal numbers."""
    found = factors((500, 8), torch.Generator().manual_seed(0))
    normal = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found * found.abs(), normal)


def test_without_noise_the_output_is_the_mean():
    """Without noise, a network is a plain MLP, on any batch shape."""
    network, inputs = NoisyMLP(3, (4,), 2, 0.5), torch.rand(2, 5, 3)
    hidden = torch.relu(inputs @ network.layers[0].weight.T + network.layers[0].bias)
    torch.testing.assert_close(network(inputs), hidden @ network.layers[1].weight.T + network.layers[1].bias)


def test_each_layer_takes_its_part_of_the_noise():
    """Layers of a network take successive parts of one vector of factors, and start at σ₀ / √inputs."""
    network, inputs = NoisyMLP(3, (3, 3), 3, 0.5), torch.rand(3)
    noise = factors((network.noise_size,), torch.Generator().manual_seed(0))
    hidden = inputs
    for number, layer in enumerate(network.layers):
        hidden = explicit(layer, torch.relu(hidden) if number else hidden, noise[6 * number : 6 * number + 6])
    torch.testing.assert_close(network(inputs, noise), hidden)
    assert [round(float(layer.weight_noise.detach().mean()), 6) for layer in network.layers] == [0.288675] * 3
