"""Sample fixed-length sequences from one environment's stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sheeprl.buffer.sampler import Anchored, Flags, read_rows
from sheeprl.buffer.storage import Extension, Rows, Storage, slots_by_stream
from sheeprl.buffer.streams import Slots


class Ages:
    """Age of each row: the rows before it in its episode and stream. An extension of the storage, 4 bytes a row.

    It also counts the sequences that stay inside an episode: to list them would take time for every row stored.

    Args:
        sequences: what a sequence is.
    """

    def __init__(self, sequences: Sequences) -> None:
        self.sequences = sequences
        self.count = 0

    def arrays(self, capacity: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """One number for every row."""
        return {"age": ((capacity,), np.dtype(np.int32))}

    def attach(self, arrays: Rows) -> None:
        """Take the array."""
        self.age = arrays["age"]

    def evicting(self, storage: Storage, slots: Slots) -> None:
        """No longer count the sequences whose oldest row goes."""
        length, context = self.sequences.length, self.sequences.context
        begins = slots[storage.index["position"][slots] == 0] if context else slots
        ends = [_ahead(storage, begins, length - 1)]  # a stream's first row stands for the one before it
        if context:
            ends.append(_ahead(storage, slots, length))
        self.count -= sum(int(np.count_nonzero(self.sequences.valid(storage, each))) for each in ends)

    def added(self, storage: Storage, slots: Slots, streams: Slots) -> None:
        """Count on from the rows before."""
        before = storage.index["previous"][slots[0]]
        age = np.where(before >= 0, self.age[before] + 1, 0)
        for row, is_first in zip(slots, storage.rows["is_first"][slots], strict=True):
            age = np.where(is_first, 0, age)
            self.age[row] = age
            age = age + 1
        self.count += int(np.count_nonzero(self.sequences.valid(storage, slots.ravel())))

    def rebuild(self, storage: Storage) -> None:
        """Recount from the oldest stored row of each stream."""
        self.count = 0
        if not storage.rows:
            return
        slots, begins = slots_by_stream(storage)
        first = begins | storage.rows["is_first"][slots]
        order = np.arange(len(slots))
        self.age[slots] = order - np.maximum.accumulate(np.where(first, order, 0))
        self.count = int(np.count_nonzero(self.sequences.valid(storage, slots)))


def _ahead(storage: Storage, slots: Slots, rows: int) -> Slots:
    """The slots so many rows after `slots` in their streams, as far as these reach."""
    for _ in range(rows):
        slots = storage.follow(slots)
        slots = slots[slots < storage.capacity]
    return slots


@dataclass(frozen=True)
class Sequences(Anchored):
    """Contiguous rows of one stream, `[n_batches, length, batch_size, *]`.

    Args:
        length: rows of a sequence.
        context: put one more row in front, the one before the first (itself again where the first is a stream's
            first row), for methods that need the previous action. The time axis is then `length + 1`.
        crosses: whether a sequence may run over an episode's end, with `is_first` in the middle. If not, all rows but
            a context row are of one episode, which needn't be over.

    Every key is there, and `index`, the rows' arrival numbers. The anchor is the last row.
    """

    length: int
    context: bool = False
    crosses: bool = True

    decides = False

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"length={self.length}: must be at least 1")

    def extensions(self) -> tuple[Extension, ...]:
        """Ages, if episodes matter."""
        return () if self.crosses else (Ages(self),)

    def available(self, storage: Storage) -> int:
        """Legal last rows."""
        if not self.crosses:
            return next(extension.count for extension in storage.extensions if isinstance(extension, Ages))
        stored, length = storage.stored, storage.streams.length
        # The first sequence of a stream that is stored from its first row needs no row before it.
        lacking = self.length - 1 + (self.context * (stored < length) if len(stored) else 0)
        return int((np.maximum(stored - lacking, 0) * storage.real_streams).sum())

    def why_empty(self, storage: Storage) -> str:
        """Rows in a row."""
        where = "stream" if self.crosses else "episode"
        return f"no {where} in the buffer has {self.length + self.context} rows in a row yet"

    def rows_per_sample(self, storage: Storage) -> int:
        """All of the sequence."""
        return self.length + self.context

    def valid(self, storage: Storage, slots: Slots) -> Flags:
        """Rows that have enough before them."""
        before = storage.rows_before(slots) - (self.length - 1)
        enough: Flags = before >= 0
        if self.context:
            enough &= (before > 0) | (storage.index["position"].take(slots) == self.length - 1)
        if not self.crosses:
            enough &= storage.annexed["age"].take(slots) >= self.length - 1
        return enough

    def apart(self, storage: Storage, slots: Slots) -> Flags:
        """One in every `length` rows of a stream."""
        return np.asarray(storage.index["position"].take(slots) % self.length == self.length - 1)

    def read(self, storage: Storage, anchors: Slots) -> Rows:
        """The sequences, oldest row first."""
        previous = storage.index["previous"]
        chain = np.empty((anchors.shape[0], self.length + self.context, anchors.shape[1]), np.int64)
        chain[:, -1] = anchors
        for row in range(chain.shape[1] - 2, -1, -1):
            after = chain[:, row + 1]
            chain[:, row] = previous.take(after)
            if row == 0 and self.context:
                chain[:, row] = np.where(storage.rows_before(after) > 0, chain[:, row], after)
        return read_rows(storage, chain)
