"""Allocation of all arrays of a sample in one block of memory."""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Kinds = Mapping[str, "tuple[tuple[int, ...], Array]"]
ALIGNMENT = 64  # bytes: a cache line, and the alignment for vector instructions
SPARE = 2  # free blocks per pool: a consumer reads one sample while the next is drawn


class Pool:
    """Memory for blocks, reused once no array views it.

    Every call of `take` returns a new array over pooled memory. All views keep that array alive; when it is
    freed, the memory returns to the pool. Reuse saves the operating system from clearing new pages.
    """

    def __init__(self) -> None:
        """Start without memory."""
        self._free: deque[Bytes] = deque(maxlen=SPARE)  # the most recently used last

    def take(self, size: int) -> Bytes:
        """Return an uninitialized byte array of at least `size` bytes."""
        memory = self._find(size)
        if memory is None:
            memory = np.empty(size, np.uint8)
        # A view's base is the last array of the chain that owns no array. Through a memoryview, `data` is that array,
        # so that every view keeps `data` alive.
        data = np.frombuffer(memory.data, np.uint8)
        weakref.finalize(data, self._free.append, memory).atexit = False
        return data

    def _find(self, size: int) -> Bytes | None:
        """Remove and return free memory of a fitting size; None if there is none."""
        for _ in range(len(self._free)):
            memory = self._free.pop()
            if size <= len(memory) <= 2 * size:
                return memory
            self._free.appendleft(memory)
        return None


class Block:
    """Arrays in one allocation, so that one copy moves them all.

    Args:
        pool: pool of the memory.
        kinds: by name, the leading shape, and an array that gives the trailing shape (all axes but the first) and the
            dtype.
        filled: by name, arrays whose content is copied into the block.
    """

    def __init__(self, pool: Pool, kinds: Kinds, filled: Mapping[str, Array] | None = None) -> None:
        """Allocate the arrays and copy `filled` into them."""
        filled = filled or {}
        layout = [(name, (*shape, *like.shape[1:]), like.dtype) for name, (shape, like) in kinds.items()]
        layout += [(name, values.shape, values.dtype) for name, values in filled.items()]
        sizes = [math.prod(shape) * dtype.itemsize for _, shape, dtype in layout]
        data = pool.take(sum(sizes) + ALIGNMENT * len(sizes))
        self.rows: dict[str, Array] = {}
        start = 0
        for (name, shape, dtype), size in zip(layout, sizes, strict=True):
            self.rows[name] = data[start : start + size].view(dtype).reshape(shape)
            start += -(-size // ALIGNMENT) * ALIGNMENT
        for name, values in filled.items():
            self.rows[name][...] = values


@dataclass(frozen=True)
class Packed:
    """A sample packed for another process into one array, because each array has a fixed cost of transfer.

    Args:
        data: memory of the block.
        layout: name, first byte, shape and dtype of each array in the block.
        others: arrays outside the block.
    """

    data: Bytes
    layout: tuple[tuple[str, int, tuple[int, ...], np.dtype[Any]], ...]
    others: dict[str, Array]

    def unpack(self) -> dict[str, Array]:
        """Return the arrays, which share the memory of `data`."""
        rows = {
            name: self.data[start : start + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
            for name, start, shape, dtype in self.layout
        }
        return rows | self.others


def pack(rows: dict[str, Array]) -> Packed:
    """Pack the arrays of a `Block` without a copy. `rows` may contain other arrays too."""
    block = next(iter(rows.values()))
    while isinstance(block.base, np.ndarray):
        block = block.base
    inside = {name: values for name, values in rows.items() if np.may_share_memory(values, block)}
    begin = _address(block)
    layout = [(name, _address(values) - begin, values.shape, values.dtype) for name, values in inside.items()]
    used = max(start + inside[name].nbytes for name, start, _, _ in layout)
    return Packed(block[:used], tuple(layout), {name: values for name, values in rows.items() if name not in inside})


def _address(values: Array) -> int:
    """Return the address of the first byte of an array."""
    return int(values.__array_interface__["data"][0])
