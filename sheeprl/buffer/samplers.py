"""Samplers of rollouts, transitions and n-step returns. They use NumPy only.

The buffer draws the anchors of a sampler uniformly, by priority or newest first. The sampler only decides which anchors
are valid, and reads their samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sheeprl.buffer.block import Block
from sheeprl.buffer.fragments import PER_STEP
from sheeprl.buffer.frames import read_with_frames
from sheeprl.buffer.sampler import Anchored, Flags
from sheeprl.buffer.storage import Extension, NotEnoughDataError, Rows, Storage
from sheeprl.buffer.streams import Slots
from sheeprl.utils.text import counted


@dataclass(frozen=True)
class Rollout:
    """Return all stored rows as one rollout `[T + 1, B, *]`, columns in the order of players and environments.

    The last row is the bootstrap row. All streams must have the same number of rows. Nothing is random.
    """

    anchored = False
    takes_all = True
    least_rows = 1
    decides = False

    def describe(self, samples: int) -> str:
        """Return a number of rows in words."""
        return counted(samples, "row")

    def extensions(self) -> tuple[Extension, ...]:
        """Return no extension."""
        return ()

    def available(self, storage: Storage) -> int:
        """Return the number of stored rows."""
        return storage.size

    def why_empty(self, storage: Storage) -> str:
        """Return the reason why there are no samples."""
        return "the buffer holds no row yet"

    def rows_per_sample(self, storage: Storage) -> int:
        """Return 1, since each row counts as a sample."""
        return 1

    def valid(self, storage: Storage, slots: Slots) -> Flags:
        """Return True for every slot."""
        return np.ones(len(slots), np.bool_)

    def apart(self, storage: Storage, slots: Slots) -> Flags:
        """Return True for every slot."""
        return np.ones(len(slots), np.bool_)

    def draw(self, storage: Storage, rng: np.random.Generator, n_batches: int, batch_size: int) -> Slots:
        """Return the slots `[T + 1, B]` of the rollout.

        Raises:
            NotEnoughDataError: streams have different numbers of rows.
        """
        slots = np.arange(storage.oldest, storage.total) % storage.capacity
        streams = storage.index["stream"][slots]
        # Stream ids follow the order of arrival, columns that of players.
        groups = sorted(storage.streams.groups.values(), key=lambda group: group.key)
        columns = [slots[streams == stream] for group in groups for stream in group.streams]
        columns = [column for column in columns if len(column)]  # a rollout needn't have rows of all players
        if len({len(column) for column in columns}) != 1 or len(columns[0]) * len(columns) != len(slots):
            counts = ", ".join(str(len(column)) for column in columns)
            raise NotEnoughDataError(f"a rollout needs the same number of rows of every stream, not {counts}")
        grid = np.stack(columns, axis=1)
        return np.concatenate([grid, storage.follow(grid[-1:])])

    def read(self, storage: Storage, anchors: Slots) -> Rows:
        """Return the rows at the slots from `draw`."""
        kinds = {name: (anchors.shape, like) for name, like in storage.sample_kinds().items()}
        block = Block(storage.pool, kinds)
        read_with_frames(storage, block.rows, anchors, list(block.rows.values()))
        return block.rows


class Steps(Anchored):
    """Base class of samplers whose anchors are the rows that begin a transition."""

    def available(self, storage: Storage) -> int:
        """Return the number of transitions."""
        return storage.transitions

    def why_empty(self, storage: Storage) -> str:
        """Return the reason why there are no samples."""
        return "the buffer holds no transition yet"

    def rows_per_sample(self, storage: Storage) -> int:
        """Return 2: the row and the next one."""
        return 2

    def valid(self, storage: Storage, slots: Slots) -> Flags:
        """Return True for rows that begin a transition."""
        return storage.is_transition(slots)


@dataclass(frozen=True)
class Transitions(Steps):
    """Sample single transitions, `[n_batches, batch_size, *]`.

    A sample has `obs`, `action` and the other keys of its row, `reward`, `terminated`, `truncated` and `next_obs` of
    the next row, and `index`, the arrival number of its row.
    """

    def read(self, storage: Storage, anchors: Slots) -> Rows:
        """Return the transitions."""
        after = storage.follow(anchors)
        return _read_steps(storage, anchors, after, {"index": storage.numbers(anchors)})


@dataclass(frozen=True)
class NStep(Steps):
    """Sample transitions over up to n steps, for n-step returns (Sutton & Barto 2018, section 7.1).

    Keys are those of `Transitions`, with these differences. `reward` is the sum of gamma^i r over k steps. `next_obs`
    and the flags are those of the row k steps ahead. `discount` is gamma^k, or 0 if that row is terminated. So
    `reward + discount * V(next_obs)` estimates the return. k is less than n if the episode ends before, or if no later
    row is stored. A truncated end is bootstrapped like any other row.

    Args:
        n: maximum number of steps.
        gamma: discount per step.

    Raises:
        ValueError: `n` is less than 1, or `gamma` is not from 0 to 1.
    """

    n: int
    gamma: float

    def __post_init__(self) -> None:
        """Validate the arguments."""
        if self.n < 1 or not 0 <= self.gamma <= 1:
            raise ValueError(f"n={self.n}, gamma={self.gamma}: n must be at least 1 and gamma from 0 to 1")

    def read(self, storage: Storage, anchors: Slots) -> Rows:
        """Return the transitions with their n-step returns."""
        slots = storage.follow(anchors)
        total = storage.get("reward", slots)
        total = total.astype(np.result_type(total, np.float32), copy=False)  # discounted integers are fractions
        discount = np.full(anchors.shape, self.gamma, np.float32)
        for _ in range(self.n - 1):
            # A slot past the ring holds a bootstrap row, which has no action yet.
            continues = slots < storage.capacity
            continues[continues] = storage.is_transition(slots[continues])
            slots[continues] = storage.follow(slots[continues])
            total[continues] += discount[continues] * storage.get("reward", slots[continues])
            discount[continues] *= np.float32(self.gamma)
        discount *= ~storage.get("terminated", slots)
        more = {"index": storage.numbers(anchors), "reward": total, "discount": discount}
        return _read_steps(storage, anchors, slots, more)


def _read_steps(storage: Storage, slots: Slots, after: Slots, more: Rows) -> Rows:
    """Return transitions from the rows at `slots` to those at `after` in one block.

    The arrays `more` are added, and replace those of the same key.
    """
    rows = storage.sample_kinds()
    at_slots = {name: name for name in rows if name not in more and name not in PER_STEP}
    at_after = {name: name for name in PER_STEP if name not in more}
    at_after |= {f"next_{name}": name for name in rows if name == "obs" or name.startswith("obs/")}
    block = Block(storage.pool, {key: (slots.shape, rows[name]) for key, name in (at_slots | at_after).items()}, more)
    read_with_frames(storage, at_slots.values(), slots, [block.rows[key] for key in at_slots])
    read_with_frames(storage, at_after.values(), after, [block.rows[key] for key in at_after])
    return block.rows
