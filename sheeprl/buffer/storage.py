"""A ring of arrival rows from many streams, each row linked to the next one of its stream. NumPy only.

A *stream* is what one environment of one incarnation of a player brings: consecutive arrival rows. Rows of all
streams share one ring in the order of their arrival, so the capacity is used whole however many players there are,
and adding costs the same however much is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Slots = npt.NDArray[np.int64]
Rows = dict[str, Array]
"""Arrays by flat key; the levels of a nested key are joined by a slash, as in `obs/position`."""

StreamKey = tuple[int, int]
"""(player, incarnation)."""

REQUIRED = ("reward", "terminated", "truncated", "is_first", "action")
PER_STEP = ("reward", "terminated", "truncated")
"""What a row holds about the step that led to it, and a transition takes from its next row."""


class RefusedFragmentError(ValueError):
    """A fragment that doesn't fit what is stored. Nothing of it was stored."""


class NotEnoughDataError(LookupError):
    """Nothing stored can serve the sample yet."""


@dataclass
class StreamGroup:
    """The streams of one incarnation of a player: one per environment, all in step."""

    key: StreamKey
    streams: Slots  # [B] stream ids
    tails: Slots  # [B] slots in the pool of tails
    rows: int = 0  # rows each stream has had so far
    last: Slots | None = None  # [B] arrival numbers of the newest rows


class Storage:
    """The ring, its links and the tails.

    A row's `link` is the slot of the row after it; links at or past `capacity` point into the pool of tails, which
    holds for every stream the row on which it arrived last and has not acted yet. The link of an end row is stored
    as its bitwise complement, so `link >= 0` says that a slot holds a transition.

    Args:
        capacity: rows kept.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a buffer of {capacity} rows can't hold anything; give at least 1")
        self.capacity = capacity
        self.total = 0  # rows ever added: the arrival number of the next one
        self.transitions = 0  # stored rows that are whole transitions
        self.rows: Rows = {}
        self.tails: Rows = {}
        index_type = np.int32 if capacity < 2**30 else np.int64
        self.link = np.empty(capacity, index_type)
        self.previous = np.empty(capacity, index_type)
        self.stream = np.empty(capacity, np.int32)
        self.position = np.empty(capacity, np.int32)  # of the row in its stream
        self.stored = np.zeros(0, np.int64)  # [streams] rows of each stream in the ring
        self.length = np.zeros(0, np.int64)  # [streams] rows each stream has had
        self.groups: dict[StreamKey, StreamGroup] = {}
        self._closed: list[StreamGroup] = []
        self._free_tails: list[int] = []

    @property
    def size(self) -> int:
        """Rows stored."""
        return min(self.total, self.capacity)

    # ------------------------------------------------------------------------------------------ adding

    def add(self, key: StreamKey, fragment: Rows) -> None:
        """Copy in a fragment of `[T + 1, B, *]` arrays, of which the last row is the tail.

        Raises:
            RefusedFragmentError: keys, shapes or dtypes differ from the first fragment's, or it exceeds the capacity.
        """
        rows, envs = self._check(fragment)
        group = self._group(key, envs)
        slots = self._claim(rows * envs).reshape(rows, envs)
        for name, values in fragment.items():
            self._write(self.rows[name], slots[0, 0], values[:-1].reshape(rows * envs, *values.shape[2:]))
            self.tails[name][group.tails] = values[-1]
        is_last = (fragment["terminated"] | fragment["truncated"])[:-1]
        self._connect(group, slots, is_last)
        self.transitions += rows * envs - int(np.count_nonzero(is_last))
        self.stored[group.streams] += rows
        self.length[group.streams] += rows

    def close(self, key: StreamKey) -> None:
        """End the streams of one incarnation of a player: nothing will follow its tails."""
        group = self.groups.pop(key, None)
        if group is not None:
            self._closed.append(group)

    def _check(self, fragment: Rows) -> tuple[int, int]:
        if missing := [name for name in REQUIRED if name not in fragment]:
            raise RefusedFragmentError(f"the fragment lacks {', '.join(missing)}")
        shape = fragment["reward"].shape
        if len(shape) != 2 or shape[0] < 2 or shape[1] < 1:
            raise RefusedFragmentError(f"reward has shape {shape}; a fragment is [T + 1, B] with T and B at least 1")
        for name, values in fragment.items():
            if values.shape[:2] != shape:
                raise RefusedFragmentError(f"{name} has shape {values.shape}, but reward has {shape}")
        rows, envs = shape[0] - 1, shape[1]
        if rows * envs > self.capacity:
            raise RefusedFragmentError(f"a fragment of {rows} x {envs} rows can't go into a buffer of {self.capacity}")
        if not self.rows:
            self._allocate(fragment)
        if different := set(self.rows) ^ set(fragment):
            raise RefusedFragmentError(f"keys differ from the first fragment's: {', '.join(sorted(different))}")
        for name, values in fragment.items():
            stored = self.rows[name]
            if (stored.shape[1:], stored.dtype) != (values.shape[2:], values.dtype):
                given, known = (f"{a.dtype}{list(a.shape[n:])}" for a, n in ((values, 2), (stored, 1)))
                raise RefusedFragmentError(f"{name} is {given}, stored is {known}")
        return rows, envs

    def _allocate(self, fragment: Rows) -> None:
        # np.empty takes address space now and memory only as rows are written.
        row_bytes = sum(v[0, 0].nbytes for v in fragment.values())
        try:
            self.rows = {name: np.empty((self.capacity, *v.shape[2:]), v.dtype) for name, v in fragment.items()}
        except MemoryError as error:
            raise MemoryError(f"no memory for buffer.size={self.capacity} rows of {row_bytes} bytes") from error
        self.tails = {name: np.empty((0, *v.shape[2:]), v.dtype) for name, v in fragment.items()}

    def _group(self, key: StreamKey, envs: int) -> StreamGroup:
        """The group of `key`, opened if need be; an older incarnation of the same player is closed."""
        if key in self.groups:
            group = self.groups[key]
            if len(group.streams) != envs:
                raise RefusedFragmentError(f"player {key[0]} brings {envs} environments; before, {len(group.streams)}")
            return group
        for other in [other for other in self.groups if other[0] == key[0]]:
            self.close(other)
        first = len(self.length)
        self.stored = np.concatenate([self.stored, np.zeros(envs, np.int64)])
        self.length = np.concatenate([self.length, np.zeros(envs, np.int64)])
        group = StreamGroup(key, np.arange(first, first + envs), self._claim_tails(envs))
        self.groups[key] = group
        return group

    def _claim_tails(self, count: int) -> Slots:
        self._reclaim_tails()
        if (lacking := count - len(self._free_tails)) > 0:
            held = len(self.tails["reward"])
            for name, values in self.tails.items():
                self.tails[name] = np.concatenate([values, np.zeros((lacking, *values.shape[1:]), values.dtype)])
            self._free_tails += range(held, held + lacking)
        claimed, self._free_tails = self._free_tails[:count], self._free_tails[count:]
        return np.array(claimed, np.int64)

    def _reclaim_tails(self) -> None:
        """Free the tails of closed streams whose last rows have been overwritten."""
        oldest = self.total - self.size
        gone = [group for group in self._closed if group.last is None or group.last.max() < oldest]
        for group in gone:
            self._closed.remove(group)
            self._free_tails += group.tails.tolist()

    def _claim(self, count: int) -> Slots:
        """The slots of the next `count` rows, cleared of what they held."""
        slots = np.arange(self.total, self.total + count, dtype=np.int64) % self.capacity
        if (evicted := self.size + count - self.capacity) > 0:
            old = slots[-evicted:]
            self.transitions -= int(np.count_nonzero(self.link[old] >= 0))
            self.stored -= np.bincount(self.stream[old], minlength=len(self.stored))
        self.total += count
        return slots

    def _write(self, ring: Array, start: int, values: Array) -> None:
        until_end = min(len(values), self.capacity - start)
        ring[start : start + until_end] = values[:until_end]
        ring[: len(values) - until_end] = values[until_end:]

    def _connect(self, group: StreamGroup, slots: Slots, is_last: npt.NDArray[np.bool_]) -> None:
        """Link the new rows `slots` [T, B] to each other, to the rows before them and to the tails."""
        links = np.concatenate([slots[1:], self.capacity + group.tails[None]])
        self.link[slots] = np.where(is_last, ~links, links)
        self.stream[slots] = group.streams
        self.position[slots] = np.arange(group.rows, group.rows + len(slots))[:, None]
        before = np.full(len(group.tails), -1, np.int64)
        if group.last is not None:
            kept = group.last >= self.total - self.size
            before[kept] = group.last[kept] % self.capacity
            ends = self.link[before[kept]] < 0
            self.link[before[kept]] = np.where(ends, ~slots[0, kept], slots[0, kept])
        self.previous[slots] = np.concatenate([before[None], slots[:-1]])
        group.rows += len(slots)
        group.last = np.arange(self.total - len(group.tails), self.total)

    # ----------------------------------------------------------------------------------------- reading

    def gather(self, name: str, slots: Slots) -> Array:
        """Copies of the rows at `slots` (any shape), which may point into the tails."""
        values: Array = self.rows[name].take(slots, axis=0, mode="clip")
        if (beyond := slots >= self.capacity).any():
            values[beyond] = self.tails[name][slots[beyond] - self.capacity]
        return values

    def follow(self, slots: Slots) -> Slots:
        """The slots of the rows after `slots`, be these end rows or not."""
        links = self.link[slots]
        return np.where(links < 0, ~links, links).astype(np.int64)

    def has_previous(self, slots: Slots) -> npt.NDArray[np.bool_]:
        """Whether the row before is still stored."""
        before = self.previous[slots]
        same = (self.stream[before] == self.stream[slots]) & (self.position[before] == self.position[slots] - 1)
        return np.asarray((before >= 0) & same)

    def numbers(self, slots: Slots) -> Slots:
        """Arrival numbers of the rows at `slots`; a number names one row for ever, a slot only until overwritten."""
        newest = self.total - 1
        return newest - (newest - slots) % self.capacity

    def write_back(self, numbers: Slots, values: Rows) -> int:
        """Overwrite keys of the rows with these arrival numbers where they are still stored; how many were.

        Raises:
            KeyError: a key that isn't stored.
        """
        kept = numbers >= self.total - self.size
        slots = numbers[kept] % self.capacity
        for name, new in values.items():
            self.rows[name][slots] = new[kept]
        return int(kept.sum())

    # ------------------------------------------------------------------------------------- persistence

    def index_arrays(self, size: int) -> Rows:
        """The arrays besides rows and tails, cut to `size` slots where they are per slot."""
        per_slot = {"link": self.link, "previous": self.previous, "stream": self.stream, "position": self.position}
        return {name: values[:size] for name, values in per_slot.items()} | {
            "stored": self.stored,
            "length": self.length,
        }

    def book_keeping(self) -> dict[str, object]:
        """Everything that isn't an array of rows, as plain values."""
        return {
            "total": self.total,
            "transitions": self.transitions,
            "free_tails": self._free_tails,
            "groups": [self._describe_group(group) for group in self.groups.values()],
            "closed": [self._describe_group(group) for group in self._closed],
        }

    def restore(self, state: dict[str, Any], arrays: Rows) -> None:
        """Take over `book_keeping` and arrays named `row …`, `tail …` and `index …`."""
        self.total, self.transitions = state["total"], state["transitions"]
        self._free_tails = list(state["free_tails"])
        groups = [self._restore_group(described) for described in state["groups"]]
        self.groups = {group.key: group for group in groups}
        self._closed = [self._restore_group(described) for described in state["closed"]]
        for name, values in arrays.items():
            kind, _, key = name.partition(" ")
            if kind == "tail":
                self.tails[key] = values
            elif kind == "row":
                self.rows[key] = np.empty((self.capacity, *values.shape[1:]), values.dtype)
                self.rows[key][: len(values)] = values
        for name, stored in self.index_arrays(self.size).items():
            if name in ("stored", "length"):
                continue
            stored[:] = arrays[f"index {name}"]
        self.stored = arrays["index stored"].astype(np.int64)
        self.length = arrays["index length"].astype(np.int64)

    @staticmethod
    def _describe_group(group: StreamGroup) -> dict[str, object]:
        last = None if group.last is None else group.last.tolist()
        return {
            "key": list(group.key),
            "streams": group.streams.tolist(),
            "tails": group.tails.tolist(),
            "rows": group.rows,
            "last": last,
        }

    @staticmethod
    def _restore_group(state: dict[str, Any]) -> StreamGroup:
        last = None if state["last"] is None else np.array(state["last"], np.int64)
        player, incarnation = state["key"]
        streams, tails = np.array(state["streams"], np.int64), np.array(state["tails"], np.int64)
        return StreamGroup((player, incarnation), streams, tails, state["rows"], last)
