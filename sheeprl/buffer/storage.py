"""A ring of arrival rows from many streams, each row linked to the next one of its stream. NumPy only.

A *stream* is what one environment of one incarnation of a player brings: consecutive arrival rows. Rows of all
streams share one ring in the order of their arrival, so the capacity is used whole however many players there are,
and adding costs the same however much is stored.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sheeprl.buffer.block import Pool
from sheeprl.buffer.dirty import Changes
from sheeprl.buffer.journal import RECORDS, Added, Journal
from sheeprl.buffer.memmap import Array, Heap, Mapped, Memory
from sheeprl.buffer.streams import GAP_LENGTH, Slots, StreamGroup, StreamKey, Streams

Rows = dict[str, Array]
"""Arrays by flat key; the levels of a nested key are joined by a slash, as in `obs/position`."""

REQUIRED = ("reward", "terminated", "truncated", "is_first", "action")
FLAGS = ("terminated", "truncated", "is_first")
PER_STEP = ("reward", "terminated", "truncated")
"""What a row holds about the step that led to it, and a transition takes from its next row."""
RESERVED = ("index", "mask", "discount", "importance", "next_obs")
"""What samples have besides the rows' keys."""


class RefusedFragmentError(ValueError):
    """A fragment that doesn't fit what is stored. Nothing of it was stored."""


class NotEnoughDataError(LookupError):
    """What is stored can't serve the sample yet."""


class Extension(Protocol):
    """What a way of sampling knows about rows besides what all know; kept in step with them."""

    def arrays(self, capacity: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """What it keeps for every row, to be allocated with the rows."""
        ...

    def attach(self, arrays: Rows) -> None:
        """Take the arrays that were allocated."""
        ...

    def evicting(self, storage: Storage, slots: Slots) -> None:
        """The rows at these slots, the oldest, are going to be overwritten."""
        ...

    def added(self, storage: Storage, slots: Slots, streams: Slots) -> None:
        """Rows `[T, B]` are there, of the streams `[B]`."""
        ...

    def rebuild(self, storage: Storage) -> None:
        """Everything may have changed."""
        ...


class Storage:
    """The ring, its links and the tails.

    A row's `link` is the slot of the row after it; links at or past `capacity` point into the pool of tails, which
    holds for every stream the row on which it arrived last and has not acted yet. The link of an end row is stored
    as its bitwise complement, so `link >= 0` says that a slot holds a transition.

    Args:
        capacity: rows kept.
        memory: where the arrays lie.
        annexes: what is kept beside the rows.
    """

    def __init__(self, capacity: int, memory: Memory | None = None, extensions: tuple[Extension, ...] = ()) -> None:
        if capacity < 1:
            raise ValueError(f"a buffer of {capacity} rows can't hold anything; give at least 1")
        self.capacity = capacity
        self.memory = memory or Heap()
        self.extensions = extensions
        self.total = 0  # rows ever added: the arrival number of the next one
        self.transitions = 0  # stored rows that are whole transitions
        self.streams = Streams()
        self.stored: Slots = np.zeros(0, np.int64)  # [streams] rows of each stream in the ring
        self.rows: Rows = {}
        self.tails: Rows = {}
        self.index: Rows = {}  # of every slot: link, previous, stream, position
        self.annexed: Rows = {}
        self.journal: Journal | None = None
        self.changes = Changes(capacity)
        self.pool = Pool()  # of the memory that samples are read into

    @property
    def size(self) -> int:
        """Rows stored."""
        return min(self.total, self.capacity)

    @property
    def added(self) -> int:
        """Rows ever added, without the holes that kills have left."""
        return int(self.streams.length[self.real_streams].sum())

    @property
    def oldest(self) -> int:
        """Arrival number of the oldest row stored."""
        return self.total - self.size

    @property
    def row_bytes(self) -> int:
        """Bytes of a row; 0 before there is any."""
        return sum(values[:1].nbytes for values in self.rows.values())

    # ------------------------------------------------------------------------------------------ adding

    def add(self, key: StreamKey, fragment: Rows, sequence: int, anew: bool = False) -> None:
        """Copy in a fragment of `[T + 1, B, *]` arrays, of which the last row is the tail.

        Args:
            key: (player, incarnation).
            fragment: arrays by flat key.
            sequence: its number in its incarnation.
            anew: whether it follows nothing that this incarnation has brought.

        Raises:
            RefusedFragmentError: it isn't as fragments are, keys, shapes or dtypes differ from the first one's, or it
                exceeds the capacity.
            NoRoomError: it is the first, and there is no room for as many rows like these as the buffer should hold,
                or it begins new streams, and there is none for their tails. Nothing of it was stored.
        """
        rows, envs = self._check(key, fragment)
        if not self.rows:
            self._allocate(fragment)
        if self.journal is not None and self.journal.full:
            self.journal.begin(self.book())
        group = self._open(key, envs, anew)
        if self.journal is not None:
            self.journal.intend(Added(self.total, key, sequence, rows, envs, anew, False))
        slots = (self._claim(rows * envs)).reshape(rows, envs)
        self._write_rows(fragment, group, slots)
        self._connect(group, slots, (fragment["terminated"] | fragment["truncated"])[:-1])
        for extension in self.extensions:
            extension.added(self, slots, group.streams)
        if self.journal is not None:
            self.journal.commit()
        self._join(group, slots[0])
        self.changes.added(slots)
        group.advance(rows, self.total, sequence)

    def _check(self, key: StreamKey, fragment: Rows) -> tuple[int, int]:
        shape = _shape_of(fragment)
        rows, envs = shape[0] - 1, shape[1]
        if rows * envs > self.capacity:
            raise RefusedFragmentError(f"a fragment of {rows} x {envs} rows can't go into a buffer of {self.capacity}")
        if self.rows and (different := set(self.rows) ^ set(fragment)):
            raise RefusedFragmentError(f"keys differ from the first fragment's: {', '.join(sorted(different))}")
        for name, values in fragment.items() if self.rows else ():
            stored = self.rows[name]
            if (stored.shape[1:], stored.dtype) != (values.shape[2:], values.dtype):
                given, known = (f"{a.dtype}{list(a.shape[n:])}" for a, n in ((values, 2), (stored, 1)))
                raise RefusedFragmentError(f"{name} is {given}, stored is {known}")
        known_group = self.streams.groups.get(key)
        if known_group and len(known_group.streams) != envs:
            raise RefusedFragmentError(
                f"player {key[0]} brings {envs} environments; before, {len(known_group.streams)}"
            )
        return rows, envs

    def _allocate(self, fragment: Rows) -> None:
        """Room for everything, once it is known what a row is."""
        capacity = self.capacity
        index_type = np.dtype(np.int32 if capacity < 2**30 else np.int64)
        kinds = {name: ((capacity, *v.shape[2:]), v.dtype) for name, v in fragment.items()}
        spec = {f"row {name}": kind for name, kind in kinds.items()}
        spec |= {f"index {name}": ((capacity,), index_type) for name in ("link", "previous")}
        spec |= {f"index {name}": ((capacity,), np.dtype(np.int32)) for name in ("stream", "position")}
        spec |= {f"tail {name}": ((0, *shape[1:]), dtype) for name, (shape, dtype) in kinds.items()}
        for extension in self.extensions:
            spec |= {f"annex {name}": kind for name, kind in extension.arrays(capacity).items()}
        if isinstance(self.memory, Mapped):
            spec["journal"] = ((RECORDS,), Journal.dtype)
        self._take(self.memory.allocate(spec))

    def _take(self, arrays: Rows) -> None:
        """Take arrays into use, by what their names begin with."""
        kinds: dict[str, Rows] = {"row": {}, "index": {}, "tail": {}, "annex": {}}
        for name, values in arrays.items():
            if name == "journal":
                assert isinstance(self.memory, Mapped)
                self.journal = Journal(self.memory.folder, values)
            else:
                kind, _, key = name.partition(" ")
                kinds[kind][key] = values
        self.rows, self.index, self.tails, self.annexed = kinds["row"], kinds["index"], kinds["tail"], kinds["annex"]
        for extension in self.extensions:
            extension.attach(self.annexed)

    def _open(self, key: StreamKey, envs: int, anew: bool) -> StreamGroup:
        """The streams that the fragment goes on with or begins, room for their tails and counts made."""
        if not anew and (known := self.streams.groups.get(key)):
            return known
        streams = copy.deepcopy(self.streams)  # as they were, if there is no room
        group = streams.open(key, envs, self.oldest, anew)
        self._grow_tails(streams.pool_size)
        self.streams = streams
        self.stored = np.concatenate([self.stored, np.zeros(envs, np.int64)])
        return group

    def _grow_tails(self, pool: int) -> None:
        """Have so many tails."""
        self.tails = {  # one by one, because a kill may have come between them
            name: each if len(each) >= pool else self.memory.grow(f"tail {name}", each, pool)
            for name, each in self.tails.items()
        }

    def _claim(self, count: int) -> Slots:
        """The slots of the next `count` rows, cleared of what they held."""
        slots = np.arange(self.total, self.total + count, dtype=np.int64) % self.capacity
        if (evicted := self.size + count - self.capacity) > 0:
            old = slots[-evicted:]
            for extension in self.extensions:
                extension.evicting(self, old)
            self.transitions -= int(np.count_nonzero(self.index["link"][old] >= 0))
            self.stored -= np.bincount(self.index["stream"][old], minlength=len(self.stored))
        self.total += count
        return slots

    def _write_rows(self, fragment: Rows, group: StreamGroup, slots: Slots) -> None:
        for name, values in fragment.items():
            flat = values[:-1].reshape(slots.size, *values.shape[2:])
            ring, start = self.rows[name], int(slots[0, 0])
            until_end = min(len(flat), self.capacity - start)
            ring[start : start + until_end] = flat[:until_end]
            ring[: len(flat) - until_end] = flat[until_end:]
            self.tails[name][group.next_tail] = values[-1]

    def _connect(self, group: StreamGroup, slots: Slots, is_last: npt.NDArray[np.bool_]) -> None:
        """Link the new rows `slots` [T, B] to each other and to the tails, and count them."""
        links = np.concatenate([slots[1:], self.capacity + group.next_tail[None]])
        self.index["link"][slots] = np.where(is_last, ~links, links)
        self.index["stream"][slots] = group.streams
        self.index["position"][slots] = np.arange(group.rows, group.rows + len(slots))[:, None]
        self.index["previous"][slots] = np.concatenate([self._before(group)[None], slots[:-1]])
        self.transitions += slots.size - int(np.count_nonzero(is_last))
        self.stored[group.streams] += len(slots)
        self.streams.length[group.streams] += len(slots)

    def _before(self, group: StreamGroup) -> Slots:
        """[B] slots of the group's newest rows, -1 where they are no longer stored."""
        if group.last is None:
            return np.full(len(group.streams), -1, np.int64)
        return np.where(group.last >= self.oldest, group.last % self.capacity, -1)

    def _join(self, group: StreamGroup, first: Slots) -> None:
        """Link the rows before a fragment to its first ones, which takes the tails' place."""
        before = self._before(group)
        kept = before >= 0
        self._link(before[kept], first[kept])

    def _link(self, slots: Slots, to: Slots) -> None:
        link = self.index["link"]
        link[slots] = np.where(link[slots] < 0, ~to, to)
        self.changes.wrote("index link", slots)

    # ----------------------------------------------------------------------------------------- reading

    def gather(self, names: Iterable[str], slots: Slots, out: Sequence[Array]) -> None:
        """Copy the rows at `slots` (any shape), which may point into the tails, into the arrays `out`."""
        beyond = np.nonzero(slots >= self.capacity)
        reaches_tails = len(beyond[0]) > 0
        for name, values in zip(names, out, strict=True):
            # mode="clip" is what lets NumPy write to `out` without a buffer in between.
            self.rows[name].take(slots, axis=0, mode="clip", out=values)
            if reaches_tails:
                values[beyond] = self.tails[name][slots[beyond] - self.capacity]

    def get(self, name: str, slots: Slots) -> Array:
        """Copies of one array's rows."""
        like = self.rows[name]
        values = np.empty((*slots.shape, *like.shape[1:]), like.dtype)
        self.gather([name], slots, [values])
        return values

    def follow(self, slots: Slots) -> Slots:
        """The slots of the rows after `slots`, be these end rows or not."""
        links = self.index["link"].take(slots)
        return np.where(links < 0, ~links, links).astype(np.int64)

    def is_transition(self, slots: Slots) -> npt.NDArray[np.bool_]:
        """Whether each slot holds a row that carries a decision."""
        return np.asarray(self.index["link"].take(slots) >= 0)

    def is_real(self, slots: Slots) -> npt.NDArray[np.bool_]:
        """Whether each slot holds a row, and is not part of a hole."""
        return np.asarray(self.real_streams.take(self.index["stream"].take(slots)))

    def rows_before(self, slots: Slots) -> Slots:
        """How many rows before each are stored of its stream; negative in a hole."""
        stream = self.index["stream"].take(slots)
        first = self.streams.length - self.stored
        return np.asarray(self.index["position"].take(slots) - first.take(stream))

    def numbers(self, slots: Slots) -> Slots:
        """Arrival numbers of the rows at `slots`; a number names one row for ever, a slot only until overwritten."""
        head = self.total % self.capacity  # the slots before it were written this time round
        return slots + (self.total - head) - self.capacity * (slots >= head)

    def kept(self, numbers: Slots) -> npt.NDArray[np.bool_]:
        """Whether the rows of these arrival numbers are still stored."""
        return np.asarray((numbers >= self.oldest) & (numbers < self.total))

    def write_back(self, numbers: Slots, values: Rows) -> int:
        """Overwrite keys of the rows with these arrival numbers where they are still stored; how many were.

        Raises:
            KeyError: a key that isn't stored.
        """
        kept = self.kept(numbers)
        slots = numbers[kept] % self.capacity
        for name, new in values.items():
            self.rows[name][slots] = new[kept]
            self.changes.wrote(f"row {name}", slots)
        return int(kept.sum())

    # ------------------------------------------------------------------------------------- persistence

    def arrays(self) -> Rows:
        """All arrays, those of every slot cut to the slots in use."""
        size = self.size
        found = {f"row {name}": values[:size] for name, values in self.rows.items()}
        found |= {f"index {name}": values[:size] for name, values in self.index.items()}
        found |= {f"annex {name}": values[:size] for name, values in self.annexed.items()}
        return found | {f"tail {name}": values[: self.streams.pool_size] for name, values in self.tails.items()}

    def book(self) -> dict[str, Any]:
        """Everything that isn't an array, as plain values."""
        return {"capacity": self.capacity, "total": self.total, "streams": self.streams.state_dict()}

    def restore(self, book: dict[str, Any], kinds: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> Rows:
        """Take over a book; the arrays of `kinds` (by name: shape of what was saved, and dtype) are made to be filled.

        Call `restored` when they are.

        Raises:
            ValueError: it doesn't fit this buffer.
        """
        if book["capacity"] != self.capacity:
            raise ValueError(
                f"the saved buffer holds {book['capacity']} rows, this one {self.capacity}; "
                f"use buffer.size={book['capacity']}"
            )
        rows = {name[4:]: kind for name, kind in kinds.items() if name.startswith("row ")}
        known = {name: (values.shape[1:], values.dtype) for name, values in self.rows.items()}
        if known and rows and known != {name: (shape[1:], dtype) for name, (shape, dtype) in rows.items()}:
            raise ValueError("the saved buffer holds rows of other keys, shapes or dtypes than this one")
        if rows and not self.rows:
            self._allocate({name: np.empty((1, 1, *shape[1:]), dtype) for name, (shape, dtype) in rows.items()})
        if self.journal is not None:  # a kill before all is filled leaves nothing rather than something half
            self.journal.begin({"capacity": self.capacity, "total": 0, "streams": Streams().state_dict()})
        self.total, self.streams = book["total"], Streams.from_state_dict(book["streams"])
        if self.rows:
            self._grow_tails(self.streams.pool_size)
        for values in self.annexed.values():
            values[:] = 0  # unless it was saved, too
        return {name: values for name, values in self.arrays().items() if name in kinds}

    def restored(self) -> None:
        """Count what the arrays hold, after they were filled."""
        if self.rows:
            size = self.size
            self.transitions = int(np.count_nonzero(self.index["link"][:size] >= 0))
            self.stored = np.bincount(self.index["stream"][:size], minlength=len(self.streams.length))
        if self.journal is not None:
            self.journal.begin(self.book())
        for extension in self.extensions:
            extension.rebuild(self)
        self.changes.forget()

    def clear(self) -> None:
        """Forget all rows."""
        self.restore({"capacity": self.capacity, "total": 0, "streams": Streams().state_dict()}, {})
        self.stored = np.zeros(0, np.int64)
        self.restored()

    def count_gone(self, rows: int) -> None:
        """Count rows among those that were ever added, of which none is here."""
        self.streams.length = np.concatenate([self.streams.length, [rows]])
        self.stored = np.concatenate([self.stored, [0]])
        if self.journal is not None:
            self.journal.begin(self.book())

    def reattach(self) -> None:
        """Take over what a process that was killed has left in the memory: all that was whole.

        Raises:
            ValueError: what is there doesn't fit, or is damaged.
        """
        assert isinstance(self.memory, Mapped)
        arrays = self.memory.attach()
        if (there := len(arrays["index link"])) != self.capacity:
            raise ValueError(f"{self.memory.folder} holds a buffer of {there} rows, not {self.capacity}")
        self._take(self._with_own_annexes(arrays))
        assert self.journal is not None
        book, added = self.journal.read()
        if book is not None:
            self.total, self.streams = book["total"], Streams.from_state_dict(book["streams"])
        for entry in added:
            if entry.whole:
                self._replay(entry, is_newest=entry is added[-1])
            else:
                self._leave_hole(entry.rows * entry.envs)
        self.restored()

    def _with_own_annexes(self, arrays: Rows) -> Rows:
        """Without what only other annexes keep, which is cleared, since it won't be kept in step."""
        own = [f"annex {name}" for extension in self.extensions for name in extension.arrays(self.capacity)]
        if missing := [name.removeprefix("annex ") for name in own if name not in arrays]:
            raise ValueError(
                f"the buffer to attach was made for another way of sampling, which keeps no {missing[0]} of its rows"
            )
        for name, values in arrays.items():
            if name.startswith("annex ") and name not in own:
                values[:] = 0
        return {name: values for name, values in arrays.items() if not name.startswith("annex ") or name in own}

    def _replay(self, entry: Added, is_newest: bool) -> None:
        """Keep the book of a fragment whose rows are there."""
        group = self.streams.open(entry.key, entry.envs, self.oldest, entry.anew)
        first = np.arange(self.total, self.total + entry.envs) % self.capacity
        self.total += entry.rows * entry.envs
        if is_newest:
            self._join(group, first)  # which may not have been done any more
        self.streams.length[group.streams] += entry.rows
        group.advance(entry.rows, self.total, entry.sequence)

    def _leave_hole(self, count: int) -> None:
        """Give up the rows that a fragment had begun to overwrite. It will be sent again, and goes behind them."""
        slots = np.arange(self.total, self.total + count, dtype=np.int64) % self.capacity
        self.total += count
        for name, values in {"link": ~slots, "previous": -1, "position": 0}.items():
            self.index[name][slots] = values
        self.index["stream"][slots] = self.streams.add_hole(count)

    @property
    def real_streams(self) -> npt.NDArray[np.bool_]:
        """[streams] which are no holes."""
        return np.asarray(self.streams.length < GAP_LENGTH)


def _shape_of(fragment: Rows) -> tuple[int, ...]:
    """`[T + 1, B]`, if the fragment is as all must be."""
    if missing := [name for name in REQUIRED if name not in fragment]:
        raise RefusedFragmentError(f"the fragment lacks {', '.join(missing)}")
    shape = fragment["reward"].shape
    if len(shape) != 2 or shape[0] < 2 or shape[1] < 1:
        raise RefusedFragmentError(f"reward has shape {shape}; a fragment is [T + 1, B] with T and B at least 1")
    for name, values in fragment.items():
        if values.shape[:2] != shape:
            raise RefusedFragmentError(f"{name} has shape {values.shape}, but reward has {shape}")
    for name in FLAGS:
        if (values := fragment[name]).shape != shape or values.dtype != np.bool_:
            raise RefusedFragmentError(f"{name} is {values.dtype}{list(values.shape)}; flags are bool{list(shape)}")
    if reserved := [name for name in fragment if name.partition("/")[0] in RESERVED]:
        raise RefusedFragmentError(f"samples use the key {reserved[0]} for something else; give it another name")
    return shape


def slots_by_stream(storage: Storage) -> tuple[Slots, npt.NDArray[np.bool_]]:
    """All slots but holes, stream by stream in the order of arrival, and whether each is the first of its stream."""
    slots = np.arange(storage.oldest, storage.total) % storage.capacity
    slots = slots[storage.is_real(slots)]
    streams = storage.index["stream"][slots]
    slots = slots[np.argsort(streams, kind="stable")]
    streams = storage.index["stream"][slots]
    return slots, np.append(True, streams[1:] != streams[:-1])
