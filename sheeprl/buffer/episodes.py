"""Sample sequences that stay inside one episode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sheeprl.buffer.sampler import Flags, read_rows, slots_by_stream
from sheeprl.buffer.storage import Extension, Rows, Storage
from sheeprl.buffer.streams import Slots
from sheeprl.utils.text import counted


class EpisodeIndex:
    """Index of complete episodes, whose rows are all stored, from the first row to the end row.

    It is an extension of the storage. `slots` holds the slots of each episode contiguously, so that a part of it is
    read without following links.
    """

    def arrays(self, capacity: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Return no arrays: the index is rebuilt from the rows."""
        return {}

    def attach(self, arrays: Rows) -> None:
        """Begin with no episodes."""
        self.clear()

    def clear(self) -> None:
        """Remove all episodes."""
        self.slots: Slots | npt.NDArray[np.int32] = np.zeros(0, np.int32)  # dtype of the storage's links
        self._used = 0  # length of the used part of `slots`
        self._open: dict[int, list[Slots]] = {}  # arrival numbers of the unfinished episode by stream
        self._table: Slots = np.zeros((3, 64), np.int64)  # first arrival number, begin in `slots`, length
        self._count = 0  # episodes in the table

    def evicting(self, storage: Storage, slots: Slots) -> None:
        """Do nothing: `_complete_episodes` ignores evicted episodes."""

    def added(self, storage: Storage, slots: Slots, streams: Slots) -> None:
        """Extend the unfinished episodes and index those that end."""
        numbers = storage.numbers(slots)
        is_first = storage.rows["is_first"][slots]
        is_last = ~storage.is_transition(slots)
        begins = np.zeros(len(streams), np.int64)
        # In the order of rows, so that episodes are sorted by their ends.
        for row, env in np.argwhere(is_first | is_last).tolist():
            stream = int(streams[env])
            if is_first[row, env]:
                self._open[stream] = []
                begins[env] = row
            if is_last[row, env] and stream in self._open:
                self._finish(storage, np.concatenate([*self._open.pop(stream), numbers[begins[env] : row + 1, env]]))
        for env, stream in enumerate(streams.tolist()):
            if stream in self._open:
                self._extend(storage, stream, numbers[begins[env] :, env])

    def _extend(self, storage: Storage, stream: int, numbers: Slots) -> None:
        """Append rows to the unfinished episode of a stream."""
        parts = self._open[stream]
        parts.append(numbers)
        if parts[0][0] < storage.oldest:  # its first row is evicted, so it can't become complete
            del self._open[stream]

    def _finish(self, storage: Storage, numbers: Slots) -> None:
        """Index an episode that ended, unless some of its rows are evicted."""
        first, length = int(numbers[0]), len(numbers)
        if first < storage.oldest:
            return
        self._make_room(storage, length)
        if self._count == self._table.shape[1]:
            self._table = np.concatenate([self._table, np.zeros_like(self._table)], axis=1)
        self._table[:, self._count] = first, self._used, length
        self._count += 1
        self.slots[self._used : self._used + length] = numbers % storage.capacity
        self._used += length

    def _make_room(self, storage: Storage, count: int) -> None:
        """Make room for `count` more slots: remove evicted episodes and grow `slots` if necessary."""
        if self._used + count <= len(self.slots):
            return
        first, begins, lengths = self._complete_episodes(storage)
        used = self.slots[_ranges(begins, lengths)]
        begins = lengths.cumsum() - lengths
        self._count = len(first)
        self._table[:, : self._count] = first, begins, lengths
        free = np.zeros(max(count, 1024, len(used)), storage.index["link"].dtype)
        self.slots = np.concatenate([used, free])
        self._used = len(used)
        # Without this, the unfinished episodes of closed streams would accumulate.
        oldest = storage.oldest
        self._open = {stream: parts for stream, parts in self._open.items() if not parts or parts[0][0] >= oldest}

    def _complete_episodes(self, storage: Storage) -> Slots:
        """Return the `[3, episodes]` table of the episodes whose rows are all stored."""
        table = self._table[:, : self._count]
        complete: Slots = table[:, table[0] >= storage.oldest]
        return complete

    def at_least(self, storage: Storage, length: int) -> tuple[Slots, Slots]:
        """Return begin in `slots` and length of each complete episode of at least `length` rows."""
        _, begins, lengths = self._complete_episodes(storage)
        long_enough = lengths >= length
        return begins[long_enough], lengths[long_enough]

    def rebuild(self, storage: Storage) -> None:
        """Find all episodes in the stored rows."""
        self.clear()
        if not storage.rows:
            return
        slots, begins = slots_by_stream(storage)
        cuts = np.flatnonzero(begins)[1:]
        episodes: list[Slots] = []
        for part in np.split(slots, cuts):
            episodes += self._episodes_of(storage, part)
        for numbers in sorted(episodes, key=lambda numbers: int(numbers[-1])):
            self._finish(storage, numbers)

    def _episodes_of(self, storage: Storage, slots: Slots) -> list[Slots]:
        """Return the arrival numbers of each complete episode of one stream, and store its unfinished one."""
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
    """Return the concatenation of the ranges `begin` to `begin + length - 1`."""
    ends = lengths.cumsum()
    return np.asarray(np.arange(ends[-1] if len(ends) else 0) + np.repeat(begins - ends + lengths, lengths))


@dataclass(frozen=True)
class Episodes:
    """Sample parts of complete episodes: first an episode uniformly, then a part of it uniformly.

    Samples have all keys of the rows, and `index`, their arrival numbers (-1 where the mask is False).

    Args:
        length: rows of a part, `[n_batches, length, batch_size, *]`. Shorter episodes are excluded. None samples whole
            episodes, padded with zeros to the longest one of the block, with the key `mask`.
        prioritize_ends: also draw parts that reach past the end, and shift them back to end with the episode. So the
            last rows are sampled more often.

    Raises:
        ValueError: `length` is less than 1, or None while `prioritize_ends` is True.
    """

    length: int | None = None
    prioritize_ends: bool = False

    anchored = False
    takes_all = False
    least_rows = 1
    decides = False

    def __post_init__(self) -> None:
        """Validate the arguments."""
        if self.length is not None and self.length < 1:
            raise ValueError(f"length={self.length}: must be at least 1, or None for whole episodes")
        if self.length is None and self.prioritize_ends:
            raise ValueError("prioritize_ends=True needs a length, since whole episodes include their ends; set length")

    def describe(self, samples: int) -> str:
        """Return a number of samples in words."""
        if self.length is None:
            return counted(samples, "complete episode")
        return f"{counted(samples, 'sequence')} of {counted(self.length, 'row')} in complete episodes"

    def extensions(self) -> tuple[Extension, ...]:
        """Return the index of episodes."""
        return (EpisodeIndex(),)

    def available(self, storage: Storage) -> int:
        """Return the number of distinct parts of complete episodes."""
        lengths = self._find(storage)[1]
        return int((lengths - self.length + 1).sum()) if self.length else len(lengths)

    def why_empty(self, storage: Storage) -> str:
        """Return the reason why there are no samples."""
        return f"the buffer holds no complete episode of at least {counted(self.length or 1, 'row')} yet"

    def rows_per_sample(self, storage: Storage) -> int:
        """Return the rows of a part, or of the longest episode."""
        return self.length or int(self._find(storage)[1].max(initial=1))

    def valid(self, storage: Storage, slots: Slots) -> Flags:
        """Raise, since this sampler draws its samples itself."""
        raise NotImplementedError

    def apart(self, storage: Storage, slots: Slots) -> Flags:
        """Raise, since this sampler draws its samples itself."""
        raise NotImplementedError

    def _find(self, storage: Storage) -> tuple[Slots, Slots]:
        """Return begin in the index and length of each episode that is long enough."""
        return _index_of(storage).at_least(storage, self.length or 1)

    def draw(self, storage: Storage, rng: np.random.Generator, n_batches: int, batch_size: int) -> Slots:
        """Draw `[n_batches, length, batch_size]` slots, -1 after the end of an episode."""
        begins, lengths = self._find(storage)
        chosen = rng.integers(len(begins), size=(n_batches, batch_size))
        begins, lengths = begins[chosen], lengths[chosen]
        slots = _index_of(storage).slots
        if self.length is None:
            steps = np.arange(lengths.max())[:, None]
            inside = steps < lengths[:, None]
            return np.where(inside, slots.take((begins[:, None] + steps) * inside), -1)
        last = lengths - self.length
        offset = rng.integers(np.where(self.prioritize_ends, lengths, last + 1))
        starts = begins + np.minimum(offset, last)
        parts = slots.take(starts[:, None] + np.arange(self.length)[:, None])
        return parts.astype(np.int64)

    def read(self, storage: Storage, anchors: Slots) -> Rows:
        """Return the rows at the slots from `draw`."""
        if self.length is not None:
            return read_rows(storage, anchors)
        inside = anchors >= 0
        rows = read_rows(storage, np.where(inside, anchors, 0), {"mask": inside})
        for name, values in rows.items():
            values[~inside] = -1 if name == "index" else 0
        return rows


def _index_of(storage: Storage) -> EpisodeIndex:
    """Return the episode index of a storage."""
    return next(extension for extension in storage.extensions if isinstance(extension, EpisodeIndex))
