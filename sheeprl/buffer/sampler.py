"""Interface and base class of samplers.

An anchor is the slot that identifies a sample, such as the row of a transition.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sheeprl.buffer.block import Block
from sheeprl.buffer.frames import read_with_frames
from sheeprl.buffer.storage import Extension, Rows, Storage
from sheeprl.buffer.streams import Slots
from sheeprl.utils.text import counted

Flags = npt.NDArray[np.bool_]


class Sampler(Protocol):
    """A way to read a storage."""

    @property
    def anchored(self) -> bool:
        """True if the buffer draws the anchors, among the slots that `valid` accepts."""
        ...

    @property
    def takes_all(self) -> bool:
        """True if a sample is the whole content of the storage, whatever its size."""
        ...

    @property
    def decides(self) -> bool:
        """True if anchors are rows with a decision only, not end rows of episodes."""
        ...

    @property
    def least_rows(self) -> int:
        """Rows of one stream from which a sample can be drawn, also after older rows were evicted."""
        ...

    def describe(self, samples: int) -> str:
        """Return a number of samples in words."""
        ...

    def extensions(self) -> tuple[Extension, ...]:
        """Return the extensions that the storage must maintain beside the rows."""
        ...

    def available(self, storage: Storage) -> int:
        """Return the number of distinct samples."""
        ...

    def why_empty(self, storage: Storage) -> str:
        """Return the reason why there are no samples."""
        ...

    def rows_per_sample(self, storage: Storage) -> int:
        """Return the number of rows that one sample reads."""
        ...

    def valid(self, storage: Storage, slots: Slots) -> Flags:
        """Return a flag per slot: True if the slot can be an anchor."""
        ...

    def apart(self, storage: Storage, slots: Slots) -> Flags:
        """Return a flag per anchor: True for anchors whose samples share no row."""
        ...

    def draw(self, storage: Storage, rng: np.random.Generator, n_batches: int, batch_size: int) -> Slots:
        """Draw anchors, if the buffer does not draw them."""
        ...

    def read(self, storage: Storage, anchors: Slots) -> Rows:
        """Return the samples at `[n_batches, batch_size]` anchors in one block, batches along the first axis."""
        ...


class Anchored:
    """Base class of samplers whose anchors the buffer draws."""

    anchored = True
    takes_all = False
    decides = True

    @property
    def least_rows(self) -> int:
        """Return 1."""
        return 1

    def describe(self, samples: int) -> str:
        """Return a number of samples in words."""
        return counted(samples, "sample")

    def extensions(self) -> tuple[Extension, ...]:
        """Return no extension."""
        return ()

    def apart(self, storage: Storage, slots: Slots) -> Flags:
        """Return True for every anchor."""
        return np.ones(len(slots), np.bool_)

    def draw(self, storage: Storage, rng: np.random.Generator, n_batches: int, batch_size: int) -> Slots:
        """Raise, since the buffer draws the anchors."""
        raise NotImplementedError


def read_rows(storage: Storage, slots: Slots, more: Rows | None = None) -> Rows:
    """Return complete rows in one block."""
    extra: dict[str, Any] = {"index": storage.numbers(slots), **(more or {})}
    kinds = {name: (slots.shape, like) for name, like in storage.sample_kinds().items()}
    block = Block(storage.pool, kinds, extra)
    read_with_frames(storage, storage.rows, slots, [block.rows[name] for name in storage.rows])
    return block.rows


def slots_by_stream(storage: Storage) -> tuple[Slots, npt.NDArray[np.bool_]]:
    """Return all slots without gaps, grouped by stream, oldest row first.

    The second array is a flag per slot: True for the first slot of each stream.
    """
    slots = np.arange(storage.oldest, storage.total) % storage.capacity
    slots = slots[storage.is_real(slots)]
    streams = storage.index["stream"][slots]
    slots = slots[np.argsort(streams, kind="stable")]
    streams = storage.index["stream"][slots]
    return slots, np.append(True, streams[1:] != streams[:-1])
