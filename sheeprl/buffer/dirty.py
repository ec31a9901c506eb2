"""Which parts of a storage's arrays were written to since they were saved last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from sheeprl.buffer.storage import Storage
    from sheeprl.buffer.streams import Slots
CHUNK_BYTES = 2**22


class Changes:
    """A flag for every chunk of every array that has a row per slot. Nothing is tracked before a first save."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._flags: dict[str, npt.NDArray[np.bool_]] = {}

    def added(self, slots: Slots) -> None:
        """Rows were added at these slots, which follow each other round the ring."""
        if not self._flags:
            return
        first, last = int(slots.flat[0]), int(slots.flat[-1])
        for name, flags in self._flags.items():
            rows = self.chunk_rows(name)
            if first <= last:
                flags[first // rows : last // rows + 1] = True
            else:
                flags[first // rows :] = True
                flags[: last // rows + 1] = True

    def wrote(self, name: str, slots: Slots) -> None:
        """Some rows of one array were overwritten."""
        if self._flags:
            self._flags[name][slots // self.chunk_rows(name)] = True

    def chunk_rows(self, name: str) -> int:
        """Rows of a chunk of this array."""
        kind, _, key = name.partition(" ")
        arrays = {"row": self._storage.rows, "index": self._storage.index, "annex": self._storage.annexed}[kind]
        return max(1, CHUNK_BYTES // max(1, arrays[key][:1].nbytes))

    def changed(self, name: str, chunk: int) -> bool:
        """Whether a chunk was written to since `saved`."""
        return not self._flags or bool(self._flags[name][chunk])

    def saved(self) -> None:
        """Everything is as saved."""
        names = [name for name in self._storage.arrays() if not name.startswith("tail ")]
        self._flags = {name: np.zeros(-(-self._storage.capacity // self.chunk_rows(name)), np.bool_) for name in names}

    def forget(self) -> None:
        """Nothing is known to be as saved."""
        self._flags = {}
