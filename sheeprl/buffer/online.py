"""Which samples are new: for batches of which a part is to be the newest data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sheeprl.buffer.sampler import Sampler
    from sheeprl.buffer.storage import Storage
    from sheeprl.buffer.streams import Slots
LOOK = 4096  # rows looked at in one go, so that a draw doesn't look at everything that has gathered


class Newest:
    """Hands out anchors newest first, each once.

    Args:
        since: arrival number of the first row that counts as new.
    """

    def __init__(self, since: int = 0) -> None:
        self._seen = since  # arrival number of the first row that isn't in a range yet
        self._ranges: list[tuple[int, int]] = []  # arrival numbers begin to end - 1 that are left, oldest range first

    def take(self, storage: Storage, sampler: Sampler, count: int) -> Slots:
        """Up to `count` anchors that have no row in common."""
        if storage.total > self._seen:
            self._ranges.append((self._seen, storage.total))
            self._seen = storage.total
        taken = np.zeros(0, np.int64)
        while len(taken) < count and self._ranges:
            begin, end = self._ranges.pop()
            begin = max(begin, storage.oldest)
            left = max(begin, end - LOOK)
            slots = np.arange(end - 1, left - 1, -1) % storage.capacity
            slots = slots[sampler.valid(storage, slots) & sampler.apart(storage, slots)]
            if len(taken) + len(slots) > count:
                slots = slots[: count - len(taken)]
                left = int(storage.numbers(slots[-1:])[0])
            taken = np.concatenate([taken, slots])
            if begin < left:
                self._ranges.append((begin, left))
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
