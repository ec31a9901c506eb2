"""The interface of samplers, and what they share."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sheeprl.buffer.block import Block
from sheeprl.buffer.storage import Extension, Rows, Storage
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

    def extensions(self) -> tuple[Extension, ...]:
        """What must be kept beside the rows."""
        ...

    def available(self, storage: Storage) -> int:
        """How many different samples there are."""
        ...

    def why_empty(self, storage: Storage) -> str:
        """Why there are no samples."""
        ...

    def rows_per_sample(self, storage: Storage) -> int:
        """Rows that are read for one sample."""
        ...

    def valid(self, storage: Storage, slots: Slots) -> Flags:
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

    def extensions(self) -> tuple[Extension, ...]:
        """Nothing."""
        return ()

    def apart(self, storage: Storage, slots: Slots) -> Flags:
        """All of them."""
        return np.ones(len(slots), np.bool_)

    def draw(self, storage: Storage, rng: np.random.Generator, n_batches: int, batch_size: int) -> Slots:
        """Not called."""
        raise NotImplementedError


def _read_rows(storage: Storage, slots: Slots, more: Rows | None = None) -> Rows:
    """Whole rows, in one block."""
    extra: dict[str, Any] = {"index": storage.numbers(slots), **(more or {})}
    block = Block(storage.pool, {name: (slots.shape, values) for name, values in storage.rows.items()}, extra)
    storage.gather(storage.rows, slots, [block.rows[name] for name in storage.rows])
    return block.rows
