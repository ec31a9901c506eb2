"""All arrays of a sample in one piece of memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Kinds = Mapping[str, "tuple[tuple[int, ...], Array]"]
ALIGNMENT = 64  # bytes: a cache line, and what vector instructions ask for


class Block:
    """Arrays side by side in one allocation, so that one copy moves them all.

    Args:
        kinds: by name, the leading shape, and an array whose trailing shape (all axes but the first) and dtype it has.
        filled: by name, arrays whose content is taken over.
    """

    def __init__(self, kinds: Kinds, filled: Mapping[str, Array] | None = None) -> None:
        filled = filled or {}
        layout = {name: ((*shape, *like.shape[1:]), like.dtype) for name, (shape, like) in kinds.items()}
        layout |= {name: (values.shape, values.dtype) for name, values in filled.items()}
        sizes = {name: int(np.prod(shape)) * dtype.itemsize for name, (shape, dtype) in layout.items()}
        self.data: npt.NDArray[np.uint8] = np.empty(sum(_aligned(size) for size in sizes.values()), np.uint8)
        self.rows: dict[str, Array] = {}
        start = 0
        for name, (shape, dtype) in layout.items():
            self.rows[name] = self.data[start : start + sizes[name]].view(dtype).reshape(shape)
            start += _aligned(sizes[name])
        for name, values in filled.items():
            self.rows[name][...] = values


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
