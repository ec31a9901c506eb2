"""Precision of numbers that sums, products and logarithms of a loss depend on."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(output: Tensor) -> Tensor:
    """Return the output of a network in at least float32; in mixed precision it has 8 to 11 significant bits.

    A discount factor of 0.997 would become 0.996 in bfloat16, and one of 0.999 would become 1.
    """
    return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output
