"""Sample fixed-length sequences from one environment's stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sheeprl.buffer.sampler import Anchored, Flags, read_rows, slots_by_stream
from sheeprl.buffer.storage import Extension, Rows, Storage
from sheeprl.buffer.streams import Slots
from sheeprl.utils.text import counted


class Ages:
    """Age of each row: the rows before it in its episode and stream. An extension of the storage, 4 bytes a row.

    It also counts the sequences that stay inside an episode: to list them would take time for every row stored.

    Args:
        sequences: the sampler.
    """

    def __init__(self, sequences: Sequences) -> None:
        """Count no anchors yet."""
        self.sequences = sequences
        self.count = 0

    def arrays(self, capacity: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Return the array of ages."""
        return {"age": ((capacity,), np.dtype(np.int32))}

    def attach(self, arrays: Rows) -> None:
        """Use the allocated array."""
        self.age = arrays["age"]

    def evicting(self, storage: Storage, slots: Slots) -> None:
        """Subtract the sequences whose oldest row is evicted from the count."""
        length, context = self.sequences.length, self.sequences.context
        begins = slots[storage.index["position"][slots] == 0] if context else slots
        ends = [_ahead(storage, begins, length - 1)]  # a stream's first row serves as its own context
        if context:
            ends.append(_ahead(storage, slots, length))
        self.count -= sum(int(np.count_nonzero(self.sequences.valid(storage, each))) for each in ends)

    def added(self, storage: Storage, slots: Slots, streams: Slots) -> None:
        """Continue from the ages of the previous rows."""
        before = storage.index["previous"][slots[0]]
        age = np.where(before >= 0, self.age[before] + 1, 0)
        for row, is_first in zip(slots, storage.rows["is_first"][slots], strict=True):
            age = np.where(is_first, 0, age)
            self.age[row] = age
            age = age + 1
        self.count += int(np.count_nonzero(self.sequences.valid(storage, slots.ravel())))

    def rebuild(self, storage: Storage) -> None:
        """Recompute ages and count from the oldest stored row of each stream."""
        self.count = 0
        if not storage.rows:
            return
        slots, begins = slots_by_stream(storage)
        first = begins | storage.rows["is_first"][slots]
        order = np.arange(len(slots))
        self.age[slots] = order - np.maximum.accumulate(np.where(first, order, 0))
        self.count = int(np.count_nonzero(self.sequences.valid(storage, slots)))


def _ahead(storage: Storage, slots: Slots, rows: int) -> Slots:
    """Return the slots `rows` rows after `slots` in their streams, without those past a stream's newest row."""
    for _ in range(rows):
        slots = storage.follow(slots)
        slots = slots[slots < storage.capacity]
    return slots


@dataclass(frozen=True)
class Sequences(Anchored):
    """Sample contiguous rows of one stream, `[n_batches, length, batch_size, *]`.

    Samples have all keys of the rows, and `index`, their arrival numbers. The anchor is the last row.

    Args:
        length: rows of a sequence.
        context: prepend the row before the sequence, for methods that need the previous action. The time axis then has
            `length + 1` rows. A stream's first sequence repeats its first row, which gets `is_first`: if the stream
            begins inside an episode, after a lost fragment, what came before is unknown.
        crosses: allow sequences across the ends of episodes, with `is_first` inside. If False, all rows apart from the
            context row belong to one episode, which may be unfinished.

    Raises:
        ValueError: `length` is less than 1.
    """

    length: int
    context: bool = False
    crosses: bool = True

    decides = False

    def __post_init__(self) -> None:
        """Validate the arguments."""
        if self.length < 1:
            raise ValueError(f"length={self.length}: must be at least 1")

    def extensions(self) -> tuple[Extension, ...]:
        """Return the ages, if sequences must stay inside an episode."""
        return () if self.crosses else (Ages(self),)

    def available(self, storage: Storage) -> int:
        """Return the number of valid anchors."""
        if not self.crosses:
            return next(extension.count for extension in storage.extensions if isinstance(extension, Ages))
        stored, length = storage.stored, storage.streams.length
        # The first sequence of a stream needs no context row.
        rows_before = self.length - 1 + (self.context * (stored < length) if len(stored) else 0)
        return int((np.maximum(stored - rows_before, 0) * storage.real_streams).sum())

    def why_empty(self, storage: Storage) -> str:
        """Return the reason why there are no samples."""
        where = "stream" if self.crosses else "episode"
        return f"no {where} in the buffer has {self.length} consecutive rows yet"

    @property
    def least_rows(self) -> int:
        """Rows of one stream from which a sample can be drawn, also after older rows were evicted."""
        return self.length + self.context

    def describe(self, samples: int) -> str:
        """Return a number of sequences in words."""
        text = f"{counted(samples, 'sequence')} of {counted(self.length, 'row')}"
        return text if self.crosses else f"{text} in one episode"

    def rows_per_sample(self, storage: Storage) -> int:
        """Return the rows of a sequence."""
        return self.length + self.context

    def valid(self, storage: Storage, slots: Slots) -> Flags:
        """Return True for rows with enough rows before them."""
        before = storage.rows_before(slots) - (self.length - 1)
        enough: Flags = before >= 0
        if self.context:
            enough &= (before > 0) | (storage.index["position"].take(slots) == self.length - 1)
        if not self.crosses:
            enough &= storage.extension_arrays["age"].take(slots) >= self.length - 1
        return enough

    def apart(self, storage: Storage, slots: Slots) -> Flags:
        """Return True for every `length`-th row of a stream, or of an episode."""
        ages = storage.index["position"] if self.crosses else storage.extension_arrays["age"]
        return np.asarray(ages.take(slots) % self.length == self.length - 1)

    def read(self, storage: Storage, anchors: Slots) -> Rows:
        """Return the sequences, oldest row first."""
        previous = storage.index["previous"]
        chain = np.empty((anchors.shape[0], self.length + self.context, anchors.shape[1]), np.int64)
        chain[:, -1] = anchors
        for row in range(chain.shape[1] - 2, -1, -1):
            after = chain[:, row + 1]
            chain[:, row] = previous.take(after)
        if not self.context:
            return read_rows(storage, chain)
        has_context = storage.rows_before(chain[:, 1]) > 0
        chain[:, 0] = np.where(has_context, chain[:, 0], chain[:, 1])
        rows = read_rows(storage, chain)
        rows["is_first"][:, 1] |= ~has_context
        return rows
