"""What sampling inside episodes knows of the rows besides their links."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from sheeprl.buffer.samplers import Sequences
    from sheeprl.buffer.storage import Rows, Storage
    from sheeprl.buffer.streams import Slots


class Ages:
    """How many rows came before each in its episode, and stream. An annex of the storage, 4 bytes a row.

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
        self.count -= sum(int(np.count_nonzero(self.sequences.legal(storage, each))) for each in ends)

    def added(self, storage: Storage, slots: Slots, streams: Slots) -> None:
        """Count on from the rows before."""
        before = storage.index["previous"][slots[0]]
        age = np.where(before >= 0, self.age[before] + 1, 0)
        for row, is_first in zip(slots, storage.rows["is_first"][slots], strict=True):
            age = np.where(is_first, 0, age)
            self.age[row] = age
            age = age + 1
        self.count += int(np.count_nonzero(self.sequences.legal(storage, slots.ravel())))

    def rebuild(self, storage: Storage) -> None:
        """Count anew, from the oldest row of each stream that is still stored."""
        self.count = 0
        if not storage.rows:
            return
        slots, begins = _by_stream(storage)
        first = begins | storage.rows["is_first"][slots]
        order = np.arange(len(slots))
        self.age[slots] = order - np.maximum.accumulate(np.where(first, order, 0))
        self.count = int(np.count_nonzero(self.sequences.legal(storage, slots)))


class EpisodeIndex:
    """Where the rows of every whole episode are: from its first row to its end row, all of them stored.

    An annex of the storage. The slots of an episode's rows stand in a row of their own in `pool`, so that any part of
    it is read without following links.
    """

    def arrays(self, capacity: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Nothing: it is made anew from the rows."""
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
        """Found out when episodes are asked for."""

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
        slots, begins = _by_stream(storage)
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


def _by_stream(storage: Storage) -> tuple[Slots, npt.NDArray[np.bool_]]:
    """All slots but holes, stream by stream in the order of arrival, and whether each is the first of its stream."""
    slots = np.arange(storage.oldest, storage.total) % storage.capacity
    slots = slots[storage.is_real(slots)]
    streams = storage.index["stream"][slots]
    slots = slots[np.argsort(streams, kind="stable")]
    streams = storage.index["stream"][slots]
    return slots, np.append(True, streams[1:] != streams[:-1])


def _ahead(storage: Storage, slots: Slots, rows: int) -> Slots:
    """The slots so many rows after `slots` in their streams, as far as these reach."""
    for _ in range(rows):
        slots = storage.follow(slots)
        slots = slots[slots < storage.capacity]
    return slots


def _ranges(begins: Slots, lengths: Slots) -> Slots:
    """`begin, begin + 1, …` for each begin, `length` of them, all in one array."""
    ends = lengths.cumsum()
    return np.asarray(np.arange(ends[-1] if len(ends) else 0) + np.repeat(begins - ends + lengths, lengths))
