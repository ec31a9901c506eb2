"""Track which chunks of the buffer's arrays changed since the last save."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sheeprl.buffer.streams import Slots

Array = npt.NDArray[Any]
CHUNK_BYTES = 2**22


class Changes:
    """Hold one dirty flag per chunk of every array that has a row per slot.

    Tracking begins with the first call of `saved`; until then every chunk counts as changed.

    Args:
        capacity: slots of the ring.
    """

    def __init__(self, capacity: int) -> None:
        """Track no array yet."""
        self._capacity = capacity
        self._flags: dict[str, npt.NDArray[np.bool_]] = {}
        self._chunk_rows: dict[str, int] = {}

    def added(self, slots: Slots) -> None:
        """Mark rows that were added at consecutive slots of the ring in every array."""
        if not self._flags:
            return
        first, last = int(slots.flat[0]), int(slots.flat[-1])
        for name, flags in self._flags.items():
            rows = self._chunk_rows[name]
            if first <= last:
                flags[first // rows : last // rows + 1] = True
            else:
                flags[first // rows :] = True
                flags[: last // rows + 1] = True

    def wrote(self, name: str, slots: Slots) -> None:
        """Mark overwritten rows of one array."""
        if self._flags:
            self._flags[name][slots // self._chunk_rows[name]] = True

    def changed(self, name: str, chunk: int) -> bool:
        """Return True if a chunk may have changed since `saved`."""
        return not self._flags or bool(self._flags[name][chunk])

    def saved(self, arrays: Mapping[str, Array]) -> None:
        """Mark all chunks of these arrays as saved."""
        self._chunk_rows = {name: chunk_rows(values) for name, values in arrays.items()}
        self._flags = {name: np.zeros(-(-self._capacity // rows), np.bool_) for name, rows in self._chunk_rows.items()}

    def forget(self) -> None:
        """Mark every chunk as changed."""
        self._flags = {}


def chunk_rows(values: Array) -> int:
    """Return the number of rows per chunk of an array."""
    return max(1, CHUNK_BYTES // max(1, values.dtype.itemsize * math.prod(values.shape[1:])))
