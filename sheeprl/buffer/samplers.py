"""What a sample is: whole rollouts, transitions, n-step returns, sequences, episodes. NumPy only.

A sampler of anything but rollouts has *anchors*: the slots that a sample can be drawn by, such as the row that decided
or the last row of a sequence. How anchors are drawn (uniformly, by priority, newest first) is not its business; it says
which are legal and reads the rows that belong to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sheeprl.buffer.block import Block
from sheeprl.buffer.episodes import Ages, EpisodeIndex
from sheeprl.buffer.storage import PER_STEP, Annex, NotEnoughDataError, Rows, Storage
from sheeprl.buffer.streams import Slots

Flags = npt.NDArray[np.bool_]


class Sampler(Protocol):
    """A way to read a storage."""

    @property
    def anchored(self) -> bool:
        """Whether anchors are drawn by the buffer, by `legal`."""
        ...

    @property
    def takes_all(self) -> bool:
        """Whether a sample is everything that is stored, whatever size is asked for."""
        ...

    @property
    def decides(self) -> bool:
        """Whether only rows that carry a decision are anchors, and not those that end an episode."""
        ...

    def annexes(self) -> tuple[Annex, ...]:
        """What must be kept beside the rows."""
        ...

    def available(self, storage: Storage) -> int:
        """How many different samples there are."""
        ...

    def lacks(self, storage: Storage) -> str:
        """Why there are no samples."""
        ...

    def rows_per_sample(self, storage: Storage) -> int:
        """Rows that are read for one sample."""
        ...

    def legal(self, storage: Storage, slots: Slots) -> Flags:
        """Whether each slot is an anchor."""
        ...

    def apart(self, storage: Storage, slots: Slots) -> Flags:
        """Of anchors, some that have no row in common."""
        ...

    def draw(self, storage: Storage, rng: np.random.Generator, n_batches: int, batch_size: int) -> Slots:
        """Anchors, if they are not drawn by the buffer."""
        ...

    def read(self, storage: Storage, anchors: Slots) -> Rows:
        """The samples at `[n_batches, batch_size]` anchors, in one block, the batches along the first axis."""
        ...


class Anchored:
    """What samplers have in common whose anchors the buffer draws."""

    anchored = True
    takes_all = False
    decides = True

    def annexes(self) -> tuple[Annex, ...]:
        """Nothing."""
        return ()

    def apart(self, storage: Storage, slots: Slots) -> Flags:
        """All of them."""
        return np.ones(len(slots), np.bool_)

    def draw(self, storage: Storage, rng: np.random.Generator, n_batches: int, batch_size: int) -> Slots:
        """Not called."""
        raise NotImplementedError


@dataclass(frozen=True)
class Rollout:
    """Everything stored, as `[T + 1, B, *]` arrival rows: columns in the order of players and environments.

    The last row is the tail. Every stream must hold equally many rows. Nothing is random.
    """

    anchored = False
    takes_all = True
    decides = False

    def annexes(self) -> tuple[Annex, ...]:
        """Nothing."""
        return ()

    def available(self, storage: Storage) -> int:
        """All rows."""
        return storage.size

    def lacks(self, storage: Storage) -> str:
        """Rows."""
        return "there is no row in the buffer yet"

    def rows_per_sample(self, storage: Storage) -> int:
        """Each its own."""
        return 1

    def legal(self, storage: Storage, slots: Slots) -> Flags:
        """All."""
        return np.ones(len(slots), np.bool_)

    def apart(self, storage: Storage, slots: Slots) -> Flags:
        """All."""
        return np.ones(len(slots), np.bool_)

    def draw(self, storage: Storage, rng: np.random.Generator, n_batches: int, batch_size: int) -> Slots:
        """The slots `[T + 1, B]` of everything.

        Raises:
            NotEnoughDataError: streams hold different numbers of rows.
        """
        slots = np.arange(storage.oldest, storage.total) % storage.capacity
        streams = storage.index["stream"][slots]
        # Streams are numbered by when they first came; what counts is the player's number.
        groups = sorted(storage.streams.groups.values(), key=lambda group: group.key)
        columns = [slots[streams == stream] for group in groups for stream in group.streams]
        if len({len(column) for column in columns}) != 1 or len(columns[0]) * len(columns) != len(slots):
            counts = ", ".join(str(len(column)) for column in columns)
            raise NotEnoughDataError(f"a rollout needs equally many rows of every stream, not {counts}")
        grid = np.stack(columns, axis=1)
        return np.concatenate([grid, storage.follow(grid[-1:])])

    def read(self, storage: Storage, anchors: Slots) -> Rows:
        """The rows."""
        block = Block(storage.pool, {name: (anchors.shape, values) for name, values in storage.rows.items()})
        storage.gather(block.rows, anchors, list(block.rows.values()))
        return block.rows


class Steps(Anchored):
    """What samplers have in common that begin at a row that carries a decision, whatever comes after it."""

    def available(self, storage: Storage) -> int:
        """Rows that are no ends."""
        return storage.transitions

    def lacks(self, storage: Storage) -> str:
        """Transitions."""
        return "there is no transition in the buffer yet"

    def rows_per_sample(self, storage: Storage) -> int:
        """The row and the next observation."""
        return 2

    def legal(self, storage: Storage, slots: Slots) -> Flags:
        """Rows that carry a decision."""
        return storage.is_transition(slots)


@dataclass(frozen=True)
class Transitions(Steps):
    """Single transitions, `[n_batches, batch_size, *]`.

    Keys: those of the row that decided (`obs`, `action`, …), `reward`, `terminated`, `truncated` and `next_obs` of
    the row after it, and `index`, the row's arrival number.
    """

    def read(self, storage: Storage, anchors: Slots) -> Rows:
        """The transitions."""
        after = storage.follow(anchors)
        return _read_steps(storage, anchors, after, {"index": storage.numbers(anchors)})


@dataclass(frozen=True)
class NStep(Steps):
    """Transitions over up to n steps, for n-step returns (Sutton & Barto 2018, section 7.1).

    As `Transitions`, but `reward` is the sum of gamma^i r over the k ≤ n steps, `next_obs` and the flags are those of
    the row k steps on, and there is `discount`: gamma^k, and 0 where that row is terminated, so that
    `reward + discount * V(next_obs)` is the return's estimate. k is less than n where the episode ended, or where
    nothing more has been played yet; a truncated end is bootstrapped from like any other row.

    Args:
        n: steps.
        gamma: discount of a step.
    """

    n: int
    gamma: float

    def __post_init__(self) -> None:
        if self.n < 1 or not 0 <= self.gamma <= 1:
            raise ValueError(f"n={self.n}, gamma={self.gamma}: n must be at least 1 and gamma from 0 to 1")

    def read(self, storage: Storage, anchors: Slots) -> Rows:
        """The returns."""
        slots = storage.follow(anchors)
        total = storage.get("reward", slots)
        total = total.astype(np.result_type(total, np.float32), copy=False)  # discounted, they aren't whole any more
        discount = np.full(anchors.shape, self.gamma, np.float32)
        for _ in range(self.n - 1):
            # Past the ring lies a tail, on which nothing was decided yet.
            going = slots < storage.capacity
            going[going] = storage.is_transition(slots[going])
            slots[going] = storage.follow(slots[going])
            total[going] += discount[going] * storage.get("reward", slots[going])
            discount[going] *= np.float32(self.gamma)
        discount *= ~storage.get("terminated", slots)
        more = {"index": storage.numbers(anchors), "reward": total, "discount": discount}
        return _read_steps(storage, anchors, slots, more)


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

    def annexes(self) -> tuple[Annex, ...]:
        """Ages, if episodes matter."""
        return () if self.crosses else (Ages(self),)

    def available(self, storage: Storage) -> int:
        """Legal last rows."""
        if not self.crosses:
            return next(annex.count for annex in storage.annexes if isinstance(annex, Ages))
        stored, length = storage.stored, storage.streams.length
        # The first sequence of a stream that is stored from its first row needs no row before it.
        lacking = self.length - 1 + (self.context * (stored < length) if len(stored) else 0)
        return int((np.maximum(stored - lacking, 0) * storage.real_streams).sum())

    def lacks(self, storage: Storage) -> str:
        """Rows in a row."""
        where = "stream" if self.crosses else "episode"
        return f"no {where} in the buffer has {self.length + self.context} rows in a row yet"

    def rows_per_sample(self, storage: Storage) -> int:
        """All of the sequence."""
        return self.length + self.context

    def legal(self, storage: Storage, slots: Slots) -> Flags:
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
        return _read_rows(storage, chain)


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

    def annexes(self) -> tuple[Annex, ...]:
        """Where episodes are."""
        return (EpisodeIndex(),)

    def available(self, storage: Storage) -> int:
        """Different parts of whole episodes."""
        lengths = self._find(storage)[1]
        return int((lengths - self.length + 1).sum()) if self.length else len(lengths)

    def lacks(self, storage: Storage) -> str:
        """Episodes."""
        return f"no whole episode of {self.length or 1} rows or more is in the buffer yet"

    def rows_per_sample(self, storage: Storage) -> int:
        """Rows of a part, or of the longest episode."""
        return self.length or int(self._find(storage)[1].max(initial=1))

    def legal(self, storage: Storage, slots: Slots) -> Flags:
        """Not asked."""
        raise NotImplementedError

    def apart(self, storage: Storage, slots: Slots) -> Flags:
        """Not asked."""
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
            return _read_rows(storage, anchors)
        inside = anchors >= 0
        rows = _read_rows(storage, np.where(inside, anchors, 0), {"mask": inside})
        for name, values in rows.items():
            values[~inside] = -1 if name == "index" else 0
        return rows


def _index_of(storage: Storage) -> EpisodeIndex:
    return next(annex for annex in storage.annexes if isinstance(annex, EpisodeIndex))


def _read_rows(storage: Storage, slots: Slots, more: Rows | None = None) -> Rows:
    """Whole rows, in one block."""
    extra: dict[str, Any] = {"index": storage.numbers(slots), **(more or {})}
    block = Block(storage.pool, {name: (slots.shape, values) for name, values in storage.rows.items()}, extra)
    storage.gather(storage.rows, slots, [block.rows[name] for name in storage.rows])
    return block.rows


def _read_steps(storage: Storage, slots: Slots, after: Slots, more: Rows) -> Rows:
    """What was decided at `slots` and found at `after`, in one block; `more` takes precedence."""
    rows = storage.rows
    decided = {name: name for name in rows if name not in more and name not in PER_STEP}
    found = {name: name for name in PER_STEP if name not in more}
    found |= {f"next_{name}": name for name in rows if name == "obs" or name.startswith("obs/")}
    block = Block(storage.pool, {key: (slots.shape, rows[name]) for key, name in (decided | found).items()}, more)
    storage.gather(decided.values(), slots, [block.rows[key] for key in decided])
    storage.gather(found.values(), after, [block.rows[key] for key in found])
    return block.rows
