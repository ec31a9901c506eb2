"""SAC-AE's losses against hand-computed values."""

import torch
from torch import tensor

from sheeprl.algos.sac_ae.loss import latent_penalty, quantized, reconstruction_loss


def test_pictures_of_five_bits():
    """Bytes lose their lowest three bits; noise of one step is added."""
    pictures = tensor([0.0, 7.0, 8.0, 255.0]).view(1, 1, 2, 2) / 255
    exact = tensor([0.0, 0.0, 1.0, 31.0]).view(1, 1, 2, 2) / 32 - 0.5
    assert torch.equal(quantized(pictures, torch.zeros(1, 1, 2, 2)), exact)
    assert torch.equal(quantized(pictures, torch.full((1, 1, 2, 2), 0.5)), exact + 1 / 64)
    every = torch.arange(256.0) / 255  # all bytes survive the division
    assert torch.equal((quantized(every, torch.zeros(256)) + 0.5) * 32, torch.arange(256).div(8, rounding_mode="floor"))


def test_reconstruction_loss():
    """The loss is the weighted mean over samples of the mean over pixels."""
    decoded, pictures = torch.zeros(2, 1, 1, 2), tensor([[1.0, 3.0], [0.0, 2.0]]).view(2, 1, 1, 2)
    assert reconstruction_loss(decoded, pictures, tensor([0.25, 0.75])).item() == 0.25 * 5 + 0.75 * 2


def test_latent_penalty():
    """The penalty is half the squared norm."""
    assert latent_penalty(tensor([[3.0, 4.0], [0.0, 2.0]]), tensor([0.5, 0.5])).item() == 0.5 * 12.5 + 0.5 * 2
