"""Ring of arrival rows from many streams. Each row is linked to the next row of its stream. Uses NumPy only.

A *stream* is the sequence of arrival rows of one environment of one incarnation of a player. The rows of all streams
share one ring in the order of their arrival. So the whole capacity is used for any number of players, and the cost of
adding a fragment does not depend on the number of stored rows.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sheeprl.buffer.block import Pool
from sheeprl.buffer.dirty import Changes
from sheeprl.buffer.fragments import RefusedFragmentError, check_like, shape_of
from sheeprl.buffer.journal import RECORDS, Journal, JournalEntry
from sheeprl.buffer.memmap import Array, InMemory, Memory, MemoryMapped
from sheeprl.buffer.streams import GAP_LENGTH, Slots, StreamGroup, StreamKey, Streams
from sheeprl.utils.text import counted

Rows = dict[str, Array]
"""Arrays by flat key. Slashes join the levels of a nested key, as in `obs/position`."""


class NotEnoughDataError(LookupError):
    """Raised when the stored rows do not suffice for the sample yet."""


class Extension(Protocol):
    """Additional data on the rows that a sampler needs, updated with them."""

    def arrays(self, capacity: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Return shape and dtype of each array with a row per slot, to be allocated with the rows."""
        ...

    def attach(self, arrays: Rows) -> None:
        """Use the allocated arrays."""
        ...

    def evicting(self, storage: Storage, slots: Slots) -> None:
        """Prepare for the eviction of the oldest rows, at these slots."""
        ...

    def added(self, storage: Storage, slots: Slots, streams: Slots) -> None:
        """Process added rows at the slots `[T, B]`, of the streams `[B]`."""
        ...

    def rebuild(self, storage: Storage) -> None:
        """Recompute everything from the rows."""
        ...


class Storage:
    """The ring of rows, their links and the bootstrap rows.

    The `link` of a row is the slot of the next row of its stream. Links of `capacity` or more point into the pool of
    bootstrap rows. For every stream, the pool holds the row that arrived last and has no action yet. The link of an end
    row is stored as its bitwise complement, so `link >= 0` means that a slot holds a transition.

    A *gap* is a range of slots that an interrupted `add` had begun to overwrite. Its rows belong to a stream that no
    sample uses.

    Args:
        capacity: maximum number of stored rows.
        memory: allocator of the arrays; None allocates them in the process's memory.
        extensions: additional data on the rows.
        frame_stack: by key, the frames of an observation in a sample. A row holds the newest frame only.

    Raises:
        ValueError: `capacity` is less than 1.
    """

    def __init__(
        self,
        capacity: int,
        memory: Memory | None = None,
        extensions: tuple[Extension, ...] = (),
        frame_stack: Mapping[str, int] | None = None,
    ) -> None:
        """Start empty; the first fragment defines the arrays."""
        if capacity < 1:
            raise ValueError(f"capacity={capacity}: must be at least 1")
        self.capacity = capacity
        self.frame_stack = dict(frame_stack or {})
        self.memory = memory or InMemory()
        self.extensions = extensions
        self.total = 0  # rows ever added: the arrival number of the next one
        self.transitions = 0  # stored rows that are complete transitions
        self.streams = Streams()
        self.stored: Slots = np.zeros(0, np.int64)  # [streams] rows of each stream in the ring
        self.rows: Rows = {}
        self.bootstrap_rows: Rows = {}
        self.index: Rows = {}  # of every slot: link, previous, stream, position
        self.extension_arrays: Rows = {}
        self.journal: Journal | None = None
        self.changes = Changes(capacity)
        self.pool = Pool()  # memory of the samples

    @property
    def size(self) -> int:
        """Return the number of stored rows."""
        return min(self.total, self.capacity)

    @property
    def added(self) -> int:
        """Return the number of rows ever added, without gaps."""
        return int(self.streams.length[self.real_streams].sum())

    @property
    def oldest(self) -> int:
        """Return the arrival number of the oldest stored row."""
        return self.total - self.size

    @property
    def capacity_bytes(self) -> int:
        """Return the size of all rows of a full storage in bytes, 0 before the first row."""
        return sum(values.nbytes for values in self.rows.values())

    @property
    def row_bytes(self) -> int:
        """Return the size of a row in a sample in bytes, 0 if there is none yet."""
        return sum(math.prod(like.shape[1:]) * like.itemsize for like in self.sample_kinds().values())

    # ------------------------------------------------------------------------------------------ adding

    def add(self, key: StreamKey, fragment: Rows, sequence: int, new_streams: bool = False) -> None:
        """Copy a fragment of `[T + 1, B, *]` arrays into the ring. Its last row is the bootstrap row.

        Args:
            key: (player, incarnation).
            fragment: arrays by flat key.
            sequence: sequence number of the fragment in its incarnation.
            new_streams: True if the fragment does not continue the streams of this incarnation.

        Raises:
            RefusedFragmentError: the fragment is invalid, exceeds the capacity, or its keys, shapes or dtypes differ
                from those of the first one.
            NoRoomError: there is no room for the rows, at the first fragment, or for the bootstrap rows of new streams.
                Nothing is stored.
        """
        rows, envs = self._check(key, fragment)
        if not self.rows:
            self._allocate(fragment)
        if self.journal is not None and self.journal.full:
            self.journal.begin(self.metadata())
        group = self._open(key, envs, new_streams)
        if self.journal is not None:
            self.journal.write(JournalEntry(self.total, key, sequence, rows, envs, new_streams, committed=False))
        slots = self._claim_slots(rows * envs).reshape(rows, envs)
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
        """Return T and B of a valid fragment.

        Raises:
            RefusedFragmentError: the fragment is invalid or does not match the stored rows.
        """
        shape = shape_of(fragment)
        rows, envs = shape[0] - 1, shape[1]
        if rows * envs > self.capacity:
            raise RefusedFragmentError(
                f"the fragment has {rows} x {envs} rows, more than the capacity of {self.capacity}"
            )
        check_like(fragment, self.rows)
        known_group = self.streams.groups.get(key)
        if known_group and len(known_group.streams) != envs:
            raise RefusedFragmentError(
                f"player {key[0]} has {counted(envs, 'environment')}, but its earlier fragments have "
                f"{len(known_group.streams)}"
            )
        return rows, envs

    def _allocate(self, fragment: Rows) -> None:
        """Allocate all arrays for rows like those of the fragment."""
        capacity = self.capacity
        index_type = np.dtype(np.int32 if capacity < 2**30 else np.int64)
        kinds = {name: ((capacity, *v.shape[2:]), v.dtype) for name, v in fragment.items()}
        spec = {f"row {name}": kind for name, kind in kinds.items()}
        spec |= {f"index {name}": ((capacity,), index_type) for name in ("link", "previous")}
        spec |= {f"index {name}": ((capacity,), np.dtype(np.int32)) for name in ("stream", "position")}
        spec |= {f"tail {name}": ((0, *shape[1:]), dtype) for name, (shape, dtype) in kinds.items()}
        for extension in self.extensions:
            spec |= {f"annex {name}": kind for name, kind in extension.arrays(capacity).items()}
        if isinstance(self.memory, MemoryMapped):
            spec["journal"] = ((RECORDS,), Journal.dtype)
        self._set_arrays(self.memory.allocate(spec))

    def _set_arrays(self, arrays: Rows) -> None:
        """Assign arrays to attributes by the prefixes of their names."""
        kinds: dict[str, Rows] = {"row": {}, "index": {}, "tail": {}, "annex": {}}
        for name, values in arrays.items():
            if name == "journal":
                assert isinstance(self.memory, MemoryMapped)
                self.journal = Journal(self.memory.folder, values)
            else:
                kind, _, key = name.partition(" ")
                kinds[kind][key] = values
        self.rows, self.index, self.bootstrap_rows = kinds["row"], kinds["index"], kinds["tail"]
        self.extension_arrays = kinds["annex"]
        for extension in self.extensions:
            extension.attach(self.extension_arrays)

    def _open(self, key: StreamKey, envs: int, new_streams: bool) -> StreamGroup:
        """Return the group of `key`. Create it if necessary, with room for its bootstrap rows.

        Raises:
            NoRoomError: there is no room for the bootstrap rows. The streams are unchanged.
        """
        if not new_streams and (known := self.streams.groups.get(key)):
            return known
        streams = copy.deepcopy(self.streams)  # unchanged if there is no room
        group = streams.open(key, envs, self.oldest, new_streams)
        self._grow_bootstrap_rows(streams.pool_size)
        self.streams = streams
        self.stored = np.concatenate([self.stored, np.zeros(envs, np.int64)])
        return group

    def _grow_bootstrap_rows(self, pool_size: int) -> None:
        """Grow the pool of bootstrap rows to at least `pool_size` slots."""
        self.bootstrap_rows = {  # each array by its length, because a kill may leave some of them shorter
            name: values if len(values) >= pool_size else self.memory.grow(f"tail {name}", values, pool_size)
            for name, values in self.bootstrap_rows.items()
        }

    def _claim_slots(self, count: int) -> Slots:
        """Return the slots of the next `count` rows, after evicting the rows stored there."""
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
        """Copy the rows of a fragment to their slots `[T, B]` and its last row to the bootstrap rows."""
        for name, values in fragment.items():
            flat = values[:-1].reshape(slots.size, *values.shape[2:])
            ring, start = self.rows[name], int(slots[0, 0])
            until_end = min(len(flat), self.capacity - start)
            ring[start : start + until_end] = flat[:until_end]
            ring[: len(flat) - until_end] = flat[until_end:]
            self.bootstrap_rows[name][group.next_bootstrap_slots] = values[-1]

    def _connect(self, group: StreamGroup, slots: Slots, is_last: npt.NDArray[np.bool_]) -> None:
        """Link the new rows at the slots `[T, B]` to each other and to the bootstrap rows, and count them."""
        links = np.concatenate([slots[1:], self.capacity + group.next_bootstrap_slots[None]])
        self.index["link"][slots] = np.where(is_last, ~links, links)
        self.index["stream"][slots] = group.streams
        self.index["position"][slots] = np.arange(group.rows, group.rows + len(slots))[:, None]
        self.index["previous"][slots] = np.concatenate([self.newest(group)[None], slots[:-1]])
        self.transitions += slots.size - int(np.count_nonzero(is_last))
        self.stored[group.streams] += len(slots)
        self.streams.length[group.streams] += len(slots)

    def newest(self, group: StreamGroup) -> Slots:
        """Return the `[B]` slots of the group's newest rows, -1 for rows that are not stored."""
        if group.last is None:
            return np.full(len(group.streams), -1, np.int64)
        return np.where(group.last >= self.oldest, group.last % self.capacity, -1)

    def _join(self, group: StreamGroup, first: Slots) -> None:
        """Link the group's newest rows to the first rows of a fragment, which replace the bootstrap rows."""
        before = self.newest(group)
        is_stored = before >= 0
        self._link(before[is_stored], first[is_stored])

    def _link(self, slots: Slots, to: Slots) -> None:
        """Link rows to other ones and preserve the marks of end rows."""
        link = self.index["link"]
        link[slots] = np.where(link[slots] < 0, ~to, to)
        self.changes.wrote("index link", slots)

    # ----------------------------------------------------------------------------------------- reading

    def gather(self, names: Iterable[str], slots: Slots, out: Sequence[Array]) -> None:
        """Copy the rows at `slots` (any shape, bootstrap rows included) into the arrays `out`."""
        beyond = np.nonzero(slots >= self.capacity)
        has_bootstrap_rows = len(beyond[0]) > 0
        for name, values in zip(names, out, strict=True):
            # mode="clip" lets NumPy write to `out` without an intermediate buffer.
            self.rows[name].take(slots, axis=0, mode="clip", out=values)
            if has_bootstrap_rows:
                values[beyond] = self.bootstrap_rows[name][slots[beyond] - self.capacity]

    def sample_kinds(self) -> Rows:
        """Return by key an array with the trailing shape and the dtype of a row in a sample."""
        kinds = dict(self.rows)
        for name, frames in self.frame_stack.items():
            if name in kinds:
                kinds[name] = np.empty((0, frames, *kinds[name].shape[1:]), kinds[name].dtype)
        return kinds

    def get(self, name: str, slots: Slots) -> Array:
        """Return a copy of the rows of one array at `slots`."""
        like = self.rows[name]
        values = np.empty((*slots.shape, *like.shape[1:]), like.dtype)
        self.gather([name], slots, [values])
        return values

    def follow(self, slots: Slots) -> Slots:
        """Return the slots of the next rows, for end rows too."""
        links = self.index["link"].take(slots)
        return np.where(links < 0, ~links, links).astype(np.int64)

    def is_transition(self, slots: Slots) -> npt.NDArray[np.bool_]:
        """Return a flag per slot: True if its row has an action, so that it begins a transition."""
        return np.asarray(self.index["link"].take(slots) >= 0)

    def is_real(self, slots: Slots) -> npt.NDArray[np.bool_]:
        """Return a flag per slot: False if it is part of a gap."""
        return np.asarray(self.real_streams.take(self.index["stream"].take(slots)))

    def rows_before(self, slots: Slots) -> Slots:
        """Return for each slot the number of stored rows before it in its stream; negative in a gap."""
        stream = self.index["stream"].take(slots)
        first = self.streams.length - self.stored
        return np.asarray(self.index["position"].take(slots) - first.take(stream))

    def numbers(self, slots: Slots) -> Slots:
        """Return the arrival numbers of the rows at `slots`. A number is never reused, while a slot is."""
        head = self.total % self.capacity  # slots before it were written in the current pass over the ring
        return slots + (self.total - head) - self.capacity * (slots >= head)

    def is_stored(self, numbers: Slots) -> npt.NDArray[np.bool_]:
        """Return a flag per arrival number: True if its row is stored."""
        return np.asarray((numbers >= self.oldest) & (numbers < self.total))

    def write_back(self, numbers: Slots, values: Rows) -> int:
        """Overwrite keys of the rows with these arrival numbers. Skip rows that are not stored.

        Returns:
            Number of stored rows.

        Raises:
            KeyError: the rows have no such key.
        """
        is_stored = self.is_stored(numbers)
        slots = numbers[is_stored] % self.capacity
        for name, new in values.items():
            self.rows[name][slots] = new[is_stored]
            self.changes.wrote(f"row {name}", slots)
        return int(is_stored.sum())

    # ------------------------------------------------------------------------------------- persistence

    def arrays(self) -> Rows:
        """Return all arrays. Those with a row per slot are cut to the slots in use."""
        size, pool_size = self.size, self.streams.pool_size
        arrays = {f"row {name}": values[:size] for name, values in self.rows.items()}
        arrays |= {f"index {name}": values[:size] for name, values in self.index.items()}
        arrays |= {f"annex {name}": values[:size] for name, values in self.extension_arrays.items()}
        return arrays | {f"tail {name}": values[:pool_size] for name, values in self.bootstrap_rows.items()}

    def metadata(self) -> dict[str, Any]:
        """Return the state apart from the arrays, as values that JSON can represent."""
        return {"capacity": self.capacity, "total": self.total, "streams": self.streams.state_dict()}

    def restore(self, metadata: dict[str, Any], kinds: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> Rows:
        """Restore a saved state apart from the content of the arrays. Fill the returned arrays, then call `restored`.

        Args:
            metadata: as `metadata` returned it.
            kinds: shape and dtype of each saved array by name.

        Raises:
            ValueError: the saved state does not fit this storage.
        """
        if metadata["capacity"] != self.capacity:
            raise ValueError(
                f"the saved buffer holds {metadata['capacity']} rows, this one {self.capacity}; "
                f"use buffer.size={metadata['capacity']}"
            )
        rows = {name[4:]: kind for name, kind in kinds.items() if name.startswith("row ")}
        known = {name: (values.shape[1:], values.dtype) for name, values in self.rows.items()}
        if known and rows and known != {name: (shape[1:], dtype) for name, (shape, dtype) in rows.items()}:
            raise ValueError("the saved rows have other keys, shapes or dtypes than those of this buffer")
        if rows and not self.rows:
            self._allocate({name: np.empty((1, 1, *shape[1:]), dtype) for name, (shape, dtype) in rows.items()})
        if self.journal is not None:  # after a kill before `restored`, the buffer is empty rather than half filled
            self.journal.begin({"capacity": self.capacity, "total": 0, "streams": Streams().state_dict()})
        self.total, self.streams = metadata["total"], Streams.from_state_dict(metadata["streams"])
        if self.rows:
            self._grow_bootstrap_rows(self.streams.pool_size)
        for values in self.extension_arrays.values():
            values[:] = 0  # the save may not contain them
        return {name: values for name, values in self.arrays().items() if name in kinds}

    def restored(self) -> None:
        """Recompute everything that depends on the content of the arrays, after `restore`."""
        if self.rows:
            size = self.size
            self.transitions = int(np.count_nonzero(self.index["link"][:size] >= 0))
            self.stored = np.bincount(self.index["stream"][:size], minlength=len(self.streams.length))
        if self.journal is not None:
            self.journal.begin(self.metadata())
        for extension in self.extensions:
            extension.rebuild(self)
        self.changes.forget()

    def clear(self) -> None:
        """Remove all rows."""
        self.restore({"capacity": self.capacity, "total": 0, "streams": Streams().state_dict()}, {})
        self.stored = np.zeros(0, np.int64)
        self.restored()

    def count_evicted(self, rows: int) -> None:
        """Count `rows` rows as added and evicted, although this storage never held them."""
        self.streams.length = np.concatenate([self.streams.length, [rows]])
        self.stored = np.concatenate([self.stored, [0]])
        if self.journal is not None:
            self.journal.begin(self.metadata())

    def reattach(self) -> None:
        """Recover all complete fragments that a previous process left in the memory.

        Raises:
            ValueError: the memory belongs to a buffer with other settings, or is damaged.
        """
        assert isinstance(self.memory, MemoryMapped)
        arrays = self.memory.attach()
        if (capacity := len(arrays["index link"])) != self.capacity:
            raise ValueError(
                f"capacity={self.capacity} but {self.memory.folder} holds a buffer of {capacity} rows; "
                f"use capacity={capacity} or another folder"
            )
        self._set_arrays(self._select_extension_arrays(arrays))
        assert self.journal is not None
        metadata, entries = self.journal.read()
        if metadata is not None:
            self.total, self.streams = metadata["total"], Streams.from_state_dict(metadata["streams"])
        for entry in entries:
            if entry.committed:
                self._recover(entry, is_newest=entry is entries[-1])
            else:
                self._leave_gap(entry.rows * entry.envs)
        self.restored()

    def _select_extension_arrays(self, arrays: Rows) -> Rows:
        """Return the arrays without those of extensions that this storage does not have.

        The excluded arrays are cleared, since they are not updated with the rows.

        Raises:
            ValueError: an array of an extension is missing.
        """
        used = [f"annex {name}" for extension in self.extensions for name in extension.arrays(self.capacity)]
        if missing := [name.removeprefix("annex ") for name in used if name not in arrays]:
            assert isinstance(self.memory, MemoryMapped)
            raise ValueError(
                f"the buffer in {self.memory.folder} was created without the array {missing[0]!r} that this sampling "
                "needs; attach it with the sampling that it was created with"
            )
        for name, values in arrays.items():
            if name.startswith("annex ") and name not in used:
                values[:] = 0
        return {name: values for name, values in arrays.items() if not name.startswith("annex ") or name in used}

    def _recover(self, entry: JournalEntry, is_newest: bool) -> None:
        """Recover the counters of a committed fragment, whose rows are in the arrays."""
        group = self.streams.open(entry.key, entry.envs, self.oldest, entry.new_streams)
        first = np.arange(self.total, self.total + entry.envs) % self.capacity
        self.total += entry.rows * entry.envs
        if is_newest:
            self._join(group, first)  # the kill may have come before it
        self.streams.length[group.streams] += entry.rows
        group.advance(entry.rows, self.total, entry.sequence)

    def _leave_gap(self, count: int) -> None:
        """Mark the slots of an interrupted fragment as a gap. The fragment is sent again and goes behind it."""
        slots = np.arange(self.total, self.total + count, dtype=np.int64) % self.capacity
        self.total += count
        for name, values in {"link": ~slots, "previous": -1, "position": 0}.items():
            self.index[name][slots] = values
        self.index["stream"][slots] = self.streams.add_gap(count)

    @property
    def real_streams(self) -> npt.NDArray[np.bool_]:
        """Return a `[streams]` flag: False for the streams of gaps."""
        return np.asarray(self.streams.length < GAP_LENGTH)
