"""Parts of long batches, from which networks are computed on a CPU so that temporary tensors stay in its cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PART = 1024  # rows of a part: a hidden layer of 64 units takes 256 KiB


def part_length(x: Tensor) -> int:
    """Return the length of a part of the first axis of `[T, *, features]`: about `PART` rows on a CPU, else T."""
    if x.device.type != "cpu":
        return len(x)
    return max(1, PART // max(1, x.shape[1:-1].numel()))


def in_parts(function: Callable[[Tensor], Tensor], x: Tensor, length: int | None = None) -> Tensor:
    """Return `function(x)` of a function of single rows, computed part by part along the first axis.

    Args:
        function: function from `[T, *]` to `[T, *]`.
        x: `[T, *]`.
        length: length of a part; None for `part_length(x)`.
    """
    return torch.cat([function(part) for part in torch.split(x, part_length(x) if length is None else length)])
