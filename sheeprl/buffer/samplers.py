"""What a sample is: whole rollouts, transitions, sequences. NumPy only; each draws from a `Storage`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sheeprl.buffer.storage import PER_STEP, NotEnoughDataError, Rows, Slots, Storage


class Sampler(Protocol):
    """A way to read a storage."""

    def ready(self, storage: Storage) -> bool:
        """Whether `draw` can serve."""
        ...

    def draw(self, storage: Storage, rng: np.random.Generator, batch_size: int, n_batches: int) -> Rows:
        """`n_batches` batches in one block, the batches along the first axis."""
        ...


@dataclass(frozen=True)
class Rollout:
    """Everything stored, as `[T + 1, B, *]` arrival rows: columns in the order of players and environments.

    The last row is the tail. Every stream must hold equally many rows.
    """

    def ready(self, storage: Storage) -> bool:
        """Whether anything is stored."""
        return storage.size > 0

    def draw(self, storage: Storage, rng: np.random.Generator, batch_size: int, n_batches: int) -> Rows:
        """The whole content; nothing is random."""
        slots = np.arange(storage.total - storage.size, storage.total) % storage.capacity
        streams = storage.stream[slots]
        # Streams are numbered by when they first came; what counts is the player's number.
        groups = sorted(storage.groups.values(), key=lambda group: group.key)
        columns = [slots[streams == stream] for group in groups for stream in group.streams]
        if len({len(column) for column in columns}) != 1 or len(columns[0]) * len(columns) != len(slots):
            counts = ", ".join(str(len(column)) for column in columns)
            raise NotEnoughDataError(f"a rollout needs equally many rows of every stream, not {counts}")
        grid = np.stack(columns, axis=1)
        grid = np.concatenate([grid, storage.follow(grid[-1:])])
        return {name: storage.gather(name, grid) for name in storage.rows}


@dataclass(frozen=True)
class Transitions:
    """Single transitions, uniformly and with replacement: `[n_batches, batch_size, *]`.

    Keys: those of the row that decided (`obs`, `action`, …), `reward`, `terminated`, `truncated` and `next_obs` of
    the row after it, and `index`, the row's arrival number.
    """

    def ready(self, storage: Storage) -> bool:
        """Whether there is a transition."""
        return storage.transitions > 0

    def draw(self, storage: Storage, rng: np.random.Generator, batch_size: int, n_batches: int) -> Rows:
        """Uniform transitions."""
        if not self.ready(storage):
            raise NotEnoughDataError("there is no transition in the buffer yet")
        slots = _draw_slots(storage, rng, n_batches * batch_size, lambda slots: storage.link[slots] >= 0)
        after = storage.link[slots].astype(np.int64)
        batch = {name: storage.gather(name, slots) for name in storage.rows if name not in PER_STEP}
        batch |= {name: storage.gather(name, after) for name in PER_STEP}
        for name in [name for name in storage.rows if name == "obs" or name.startswith("obs/")]:
            batch[f"next_{name}"] = storage.gather(name, after)
        batch["index"] = storage.numbers(slots)
        return {name: values.reshape(n_batches, batch_size, *values.shape[1:]) for name, values in batch.items()}


@dataclass(frozen=True)
class Sequences:
    """Contiguous rows of one stream, `[n_batches, length, batch_size, *]`, which may run over episodes' ends.

    Args:
        length: rows of a sequence.
        context: put one more row in front, the one before the first (itself again where the first is a stream's
            first row), for methods that need the previous action. The time axis is then `length + 1`.

    Every key is there, and `index`, the rows' arrival numbers.
    """

    length: int
    context: bool = False

    def ready(self, storage: Storage) -> bool:
        """Whether some stream is long enough."""
        return bool(len(storage.stored)) and int(storage.stored.max()) >= self.length + self.context

    def draw(self, storage: Storage, rng: np.random.Generator, batch_size: int, n_batches: int) -> Rows:
        """Sequences that start at uniformly drawn rows."""
        if not self.ready(storage):
            raise NotEnoughDataError(f"no stream in the buffer has {self.length + self.context} rows yet")
        start = _draw_slots(storage, rng, n_batches * batch_size, lambda slots: self._starts(storage, slots))
        chain = [start]
        for _ in range(self.length - 1):
            chain.append(storage.follow(chain[-1]))
        if self.context:
            chain.insert(0, np.where(storage.has_previous(start), storage.previous[start], start))
        slots = np.stack(chain).reshape(len(chain), n_batches, batch_size).swapaxes(0, 1)
        batch = {name: storage.gather(name, slots) for name in storage.rows}
        batch["index"] = storage.numbers(slots)
        return batch

    def _starts(self, storage: Storage, slots: Slots) -> npt.NDArray[np.bool_]:
        """Whether a sequence can start at each slot."""
        enough = storage.position[slots] + self.length <= storage.length[storage.stream[slots]]
        if self.context:
            enough &= (storage.position[slots] == 0) | storage.has_previous(slots)
        return np.asarray(enough)


def _draw_slots(
    storage: Storage, rng: np.random.Generator, count: int, legal: Callable[[Slots], npt.NDArray[np.bool_]]
) -> Slots:
    """`count` uniform draws, with replacement, among the slots that are legal; at least one must be.

    Illegal draws are thrown away and drawn anew, which is uniform and touches few rows; should hardly any slot be
    legal, all legal ones are listed instead.
    """
    drawn = rng.integers(storage.size, size=count)
    for _ in range(16):
        bad = np.flatnonzero(~legal(drawn))
        if not len(bad):
            return drawn
        drawn[bad] = rng.integers(storage.size, size=len(bad))
    bad = np.flatnonzero(~legal(drawn))
    choices = np.flatnonzero(legal(np.arange(storage.size)))
    drawn[bad] = choices[rng.integers(len(choices), size=len(bad))]
    return drawn
