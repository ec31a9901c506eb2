"""SAC-AE's loss of the autoencoder, Yarats et al. 2019 (1910.01741), as pure functions.

`weight` is the batch's `sample_weight`, so `(weight * x).sum()` is the mean of x over the whole trainer group. The
equations below write it E[x].
"""

from __future__ import annotations

from torch import Tensor

BITS = 5


def quantized(pictures: Tensor, noise: Tensor) -> Tensor:
    """Return pictures of `BITS` bits with uniform noise of one step, in [−½, ½), as in Glow (1807.03039).

    Args:
        pictures: `[N, C, H, W]` in [0, 1], bytes divided by 255.
        noise: `[N, C, H, W]`, uniform in [0, 1).
    """
    levels = 2**BITS
    steps: Tensor = ((pictures * 255).round() * (levels / 256)).floor()
    result: Tensor = (steps + noise) / levels - 0.5
    return result


def reconstruction_loss(decoded: Tensor, pictures: Tensor, weight: Tensor) -> Tensor:
    """Return E[mean (o' − o)²], the squared error of the decoded pictures, each `[N, C, H, W]`."""
    return (weight * (decoded - pictures).square().flatten(1).mean(1)).sum()


def latent_penalty(latent: Tensor, weight: Tensor) -> Tensor:
    """Return E[½ ‖z‖²] of the encoded pictures z, `[N, features]`."""
    return (weight * 0.5 * latent.square().sum(-1)).sum()
