"""Draw the newest samples, for batches that contain a fraction of new data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sheeprl.buffer.sampler import Sampler
    from sheeprl.buffer.storage import Storage
    from sheeprl.buffer.streams import Slots
SCAN_ROWS = 4096  # rows tested at once, which bounds the cost of a draw however many new rows there are


class Newest:
    """Return anchors newest first, each once.

    Args:
        since: arrival number of the first row that counts as new.
    """

    def __init__(self, since: int = 0) -> None:
        """Start without ranges."""
        self._seen = since  # arrival number of the first row that is in no range yet
        self._ranges: list[tuple[int, int]] = []  # remaining arrival numbers as (begin, end), oldest range first

    def take(self, storage: Storage, sampler: Sampler, count: int) -> Slots:
        """Return up to `count` anchors whose samples share no row, and do not return them again."""
        if storage.total > self._seen:
            self._ranges.append((self._seen, storage.total))
            self._seen = storage.total
        taken = np.zeros(0, np.int64)
        while len(taken) < count and self._ranges:
            begin, end = self._ranges.pop()
            begin = max(begin, storage.oldest)
            scanned = max(begin, end - SCAN_ROWS)
            slots = np.arange(end - 1, scanned - 1, -1) % storage.capacity
            slots = slots[sampler.valid(storage, slots) & sampler.apart(storage, slots)]
            if len(taken) + len(slots) > count:
                slots = slots[: count - len(taken)]
                scanned = int(storage.numbers(slots[-1:])[0])
            taken = np.concatenate([taken, slots])
            if begin < scanned:
                self._ranges.append((begin, scanned))
        return taken

    def state_dict(self) -> dict[str, object]:
        """Return the state as values that JSON can represent."""
        return {"seen": self._seen, "ranges": self._ranges}

    @classmethod
    def from_state_dict(cls, state: dict[str, object]) -> Newest:
        """Return the instance of a state from `state_dict`."""
        newest = cls(state["seen"])  # type: ignore[arg-type]
        newest._ranges = [(begin, end) for begin, end in state["ranges"]]  # type: ignore[attr-defined]
        return newest
