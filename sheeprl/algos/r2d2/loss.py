"""R2D2's rescaling of values and priorities of sequences, as pure functions.

The title of the paper is "Recurrent experience replay in distributed reinforcement learning", Kapturowski et al. 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rescale(x: Tensor, epsilon: float) -> Tensor:
    """Return h(x) = sign(x) (√(|x| + 1) − 1) + ε x, Pohlen et al. 2018 (1805.11593), section 3.2."""
    return torch.sign(x) * (torch.sqrt(x.abs() + 1.0) - 1.0) + epsilon * x


def unscale(x: Tensor, epsilon: float) -> Tensor:
    """Return h⁻¹(x), the inverse of `rescale`: sign(x) (((√(1 + 4 ε (|x| + 1 + ε)) − 1) / (2 ε))² − 1).

    The quotient (√(1 + 4 ε z) − 1) / (2 ε) is computed as 2 z / (√(1 + 4 ε z) + 1), which subtracts no nearly equal
    numbers and permits ε = 0.
    """
    inner = x.abs() + 1.0 + epsilon
    root = 2.0 * inner / (torch.sqrt(1.0 + 4.0 * epsilon * inner) + 1.0)
    return torch.sign(x) * (root * root - 1.0)


def sequence_priority(error: Tensor, mask: Tensor, eta: float) -> Tensor:
    """Return p = η max_t |δ_t| + (1 − η) mean_t |δ_t|, section 2.3, over the rows of the mask; 0 without any.

    Args:
        error: `[T, N]` TD errors δ.
        mask: `[T, N]` booleans, true on rows with an action.
        eta: η.

    Returns:
        `[N]` priorities.
    """
    size = error.abs() * mask
    return eta * size.amax(0) + (1.0 - eta) * size.sum(0) / mask.sum(0).clamp_min(1)
