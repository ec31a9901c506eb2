"""Sample sequences that stay inside one episode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sheeprl.buffer.sampler import Flags, read_rows
from sheeprl.buffer.storage import Extension, Rows, Storage, slots_by_stream
from sheeprl.buffer.streams import Slots


class EpisodeIndex:
    """Index of complete episodes: those whose rows are all stored, from the first row to the end row.

    It is an extension of the storage. `pool` holds the slots of each episode contiguously, so that any part of it is
    read without following links.
    """

    def arrays(self, capacity: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Return no arrays: the index is rebuilt from the rows."""
        return {}

    def attach(self, arrays: Rows) -> None:
        """Begin empty."""
        self.clear()

    def clear(self) -> None:
        """Forget all episodes."""
        self.pool: Slots | npt.NDArray[np.int32] = np.zeros(0, np.int32)  # of the storage's type of slots
        self._used = 0
        self._open: dict[int, list[Slots]] = {}  # by stream, the arrival numbers of its unfinished episode
        self._table: Slots = np.zeros((3, 64), np.int64)  # first arrival number, begin in the pool, length
        self._count = 0  # episodes in the table

    def evicting(self, storage: Storage, slots: Slots) -> None:
        """Do nothing: evicted episodes are removed when episodes are requested."""

    def added(self, storage: Storage, slots: Slots, streams: Slots) -> None:
        """Go on with the unfinished episodes; note those that end."""
        numbers = storage.numbers(slots)
        is_first = storage.rows["is_first"][slots]
        is_last = ~storage.is_transition(slots)
        begins = np.zeros(len(streams), np.int64)
        # Row by row where something happens, so that episodes stand in the order of their ends.
        for row, env in np.argwhere(is_first | is_last).tolist():
            stream = int(streams[env])
            if is_first[row, env]:
                self._open[stream] = []
                begins[env] = row
            if is_last[row, env] and stream in self._open:
                self._finish(storage, np.concatenate([*self._open.pop(stream), numbers[begins[env] : row + 1, env]]))
        for env, stream in enumerate(streams.tolist()):
            if stream in self._open:
                self._go_on(storage, stream, numbers[begins[env] :, env])

    def _go_on(self, storage: Storage, stream: int, numbers: Slots) -> None:
        parts = self._open[stream]
        parts.append(numbers)
        if parts[0][0] < storage.oldest:  # its beginning was overwritten: it will never be whole
            del self._open[stream]

    def _finish(self, storage: Storage, numbers: Slots) -> None:
        first, length = int(numbers[0]), len(numbers)
        if first < storage.oldest:
            return
        self._make_room(storage, length)
        if self._count == self._table.shape[1]:
            self._table = np.concatenate([self._table, np.zeros_like(self._table)], axis=1)
        self._table[:, self._count] = first, self._used, length
        self._count += 1
        self.pool[self._used : self._used + length] = numbers % storage.capacity
        self._used += length

    def _make_room(self, storage: Storage, count: int) -> None:
        """Have room for `count` more slots in the pool: forget what is gone, or make it larger."""
        if self._used + count <= len(self.pool):
            return
        first, begins, lengths = self._live(storage)
        kept = self.pool[_ranges(begins, lengths)]
        begins = lengths.cumsum() - lengths
        self._count = len(first)
        self._table[:, : self._count] = first, begins, lengths
        more = np.zeros(max(count, 1024, len(kept)), storage.index["link"].dtype)
        self.pool = np.concatenate([kept, more])
        self._used = len(kept)
        # Those of streams that nobody goes on with would stay for ever.
        going = {stream: parts for stream, parts in self._open.items() if not parts or parts[0][0] >= storage.oldest}
        self._open = going

    def _live(self, storage: Storage) -> Slots:
        """`[3, episodes]` of those whose rows are all still stored."""
        table = self._table[:, : self._count]
        live: Slots = table[:, table[0] >= storage.oldest]
        return live

    def at_least(self, storage: Storage, length: int) -> tuple[Slots, Slots]:
        """Where whole episodes of `length` rows or more begin in the pool, and their lengths."""
        _, begins, lengths = self._live(storage)
        long = lengths >= length
        return begins[long], lengths[long]

    def rebuild(self, storage: Storage) -> None:
        """Find all episodes anew."""
        self.clear()
        if not storage.rows:
            return
        slots, begins = slots_by_stream(storage)
        cuts = np.flatnonzero(begins)[1:]
        whole: list[Slots] = []
        for part in np.split(slots, cuts):
            whole += self._episodes_of(storage, part)
        for numbers in sorted(whole, key=lambda numbers: int(numbers[-1])):
            self._finish(storage, numbers)

    def _episodes_of(self, storage: Storage, slots: Slots) -> list[Slots]:
        """The arrival numbers of one stream's whole episodes; an unfinished one is noted."""
        is_first, is_last = storage.rows["is_first"][slots], ~storage.is_transition(slots)
        numbers = storage.numbers(slots)
        found, begin = [], -1
        for row in np.flatnonzero(is_first | is_last).tolist():
            if is_first[row]:
                begin = row
            if is_last[row] and begin >= 0:
                found.append(numbers[begin : row + 1])
                begin = -1
        if begin >= 0:
            self._open[int(storage.index["stream"][slots[0]])] = [numbers[begin:]]
        return found


def _ranges(begins: Slots, lengths: Slots) -> Slots:
    """`begin, begin + 1, …` for each begin, `length` of them, all in one array."""
    ends = lengths.cumsum()
    return np.asarray(np.arange(ends[-1] if len(ends) else 0) + np.repeat(begins - ends + lengths, lengths))


@dataclass(frozen=True)
class Episodes:
    """Parts of whole episodes, from a first row to an end row: an episode uniformly, then a part of it uniformly.

    Args:
        length: rows of a part, `[n_batches, length, batch_size, *]`; shorter episodes are left out. None gives whole
            episodes, filled up with zeros behind their ends to the longest of the block, with the key `mask`.
        prioritize_ends: draw parts that would reach over the end, too, and move them back so that they end with it:
            the last rows come more often.

    Every key is there, and `index`, the rows' arrival numbers (-1 where the mask is False).
    """

    length: int | None = None
    prioritize_ends: bool = False

    anchored = False
    takes_all = False
    decides = False

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 1:
            raise ValueError(f"length={self.length}: must be at least 1, or None for whole episodes")
        if self.length is None and self.prioritize_ends:
            raise ValueError("prioritize_ends needs a length: a whole episode has its end")

    def extensions(self) -> tuple[Extension, ...]:
        """Where episodes are."""
        return (EpisodeIndex(),)

    def available(self, storage: Storage) -> int:
        """Different parts of whole episodes."""
        lengths = self._find(storage)[1]
        return int((lengths - self.length + 1).sum()) if self.length else len(lengths)

    def why_empty(self, storage: Storage) -> str:
        """Episodes."""
        return f"no whole episode of {self.length or 1} rows or more is in the buffer yet"

    def rows_per_sample(self, storage: Storage) -> int:
        """Rows of a part, or of the longest episode."""
        return self.length or int(self._find(storage)[1].max(initial=1))

    def valid(self, storage: Storage, slots: Slots) -> Flags:
        """Raise: this sampler draws its samples itself."""
        raise NotImplementedError

    def apart(self, storage: Storage, slots: Slots) -> Flags:
        """Raise: this sampler draws its samples itself."""
        raise NotImplementedError

    def _find(self, storage: Storage) -> tuple[Slots, Slots]:
        return _index_of(storage).at_least(storage, self.length or 1)

    def draw(self, storage: Storage, rng: np.random.Generator, n_batches: int, batch_size: int) -> Slots:
        """`[n_batches, length, batch_size]` slots, -1 behind an episode's end."""
        begins, lengths = self._find(storage)
        chosen = rng.integers(len(begins), size=(n_batches, batch_size))
        begins, lengths = begins[chosen], lengths[chosen]
        pool = _index_of(storage).pool
        if self.length is None:
            steps = np.arange(lengths.max())[:, None]
            inside = steps < lengths[:, None]
            return np.where(inside, pool.take((begins[:, None] + steps) * inside), -1)
        last = lengths - self.length
        offset = rng.integers(np.where(self.prioritize_ends, lengths, last + 1))
        starts = begins + np.minimum(offset, last)
        slots = pool.take(starts[:, None] + np.arange(self.length)[:, None])
        return slots.astype(np.int64)

    def read(self, storage: Storage, anchors: Slots) -> Rows:
        """The rows at what `draw` gave."""
        if self.length is not None:
            return read_rows(storage, anchors)
        inside = anchors >= 0
        rows = read_rows(storage, np.where(inside, anchors, 0), {"mask": inside})
        for name, values in rows.items():
            values[~inside] = -1 if name == "index" else 0
        return rows


def _index_of(storage: Storage) -> EpisodeIndex:
    return next(extension for extension in storage.extensions if isinstance(extension, EpisodeIndex))
