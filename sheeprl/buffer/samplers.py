"""What a sample is: whole rollouts, transitions, n-step returns, sequences, episodes. NumPy only.

A sampler of anything but rollouts has *anchors*: the slots that a sample can be drawn by, such as the row that decided
or the last row of a sequence. How anchors are drawn (uniformly, by priority, newest first) is not its business; it says
which are legal and reads the rows that belong to them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sheeprl.buffer.block import Block
from sheeprl.buffer.sampler import Anchored, Flags
from sheeprl.buffer.storage import PER_STEP, Extension, NotEnoughDataError, Rows, Storage
from sheeprl.buffer.streams import Slots


@dataclass(frozen=True)
class Rollout:
    """Everything stored, as `[T + 1, B, *]` arrival rows: columns in the order of players and environments.

    The last row is the tail. Every stream must hold equally many rows. Nothing is random.
    """

    anchored = False
    takes_all = True
    decides = False

    def extensions(self) -> tuple[Extension, ...]:
        """Nothing."""
        return ()

    def available(self, storage: Storage) -> int:
        """All rows."""
        return storage.size

    def why_empty(self, storage: Storage) -> str:
        """Rows."""
        return "there is no row in the buffer yet"

    def rows_per_sample(self, storage: Storage) -> int:
        """Each its own."""
        return 1

    def valid(self, storage: Storage, slots: Slots) -> Flags:
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

    def why_empty(self, storage: Storage) -> str:
        """Transitions."""
        return "there is no transition in the buffer yet"

    def rows_per_sample(self, storage: Storage) -> int:
        """The row and the next observation."""
        return 2

    def valid(self, storage: Storage, slots: Slots) -> Flags:
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
