"""Read rows as samples have them: each observation with the frames before it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from sheeprl.buffer.memmap import Array
from sheeprl.buffer.storage import Storage
from sheeprl.buffer.streams import Slots


def read_with_frames(storage: Storage, names: Iterable[str], slots: Slots, out: Sequence[Array]) -> None:
    """Copy the rows at `slots` as samples have them, with stacked frames, into the arrays `out`."""
    by_frames: dict[int, list[tuple[str, Array]]] = {}
    for name, values in zip(names, out, strict=True):
        by_frames.setdefault(storage.frame_stack.get(name, 0), []).append((name, values))
    for frames, pairs in by_frames.items():
        at = _stack(storage, slots, frames) if frames else slots
        storage.gather([name for name, _ in pairs], at, [values for _, values in pairs])


def _stack(storage: Storage, slots: Slots, frames: int) -> Slots:
    """Return the slots `[*slots.shape, frames]` of the frames of an observation, oldest first.

    A stack begins with its episode: the first frame is repeated. So is the oldest stored frame, if the ones before
    it were evicted.
    """
    stack = np.empty((*slots.shape, frames), np.int64)
    stack[..., -1] = slots
    for place in range(frames - 1, 0, -1):
        stack[..., place - 1] = _frame_before(storage, stack[..., place])
    return stack


def _frame_before(storage: Storage, slots: Slots) -> Slots:
    """Return the slots of the previous rows in the same episode; the slots themselves where there is none."""
    in_ring = np.minimum(slots, storage.capacity - 1)
    before = np.where(storage.rows_before(in_ring) > 0, storage.index["previous"].take(in_ring), -1)
    is_first = storage.rows["is_first"].take(in_ring)
    beyond = slots >= storage.capacity
    if beyond.any():
        places = slots[beyond] - storage.capacity
        before[beyond] = _before_bootstrap_rows(storage).take(places)
        is_first[beyond] = storage.bootstrap_rows["is_first"].take(places)
    return np.where((before < 0) | is_first, slots, before)


def _before_bootstrap_rows(storage: Storage) -> Slots:
    """Return for each slot of the pool the slot of the row before its bootstrap row, -1 if it is not stored."""
    before = np.full(len(storage.bootstrap_rows["is_first"]), -1, np.int64)
    for group in storage.streams.all_groups():
        before[group.bootstrap_slots[group.turn]] = storage.newest(group)
    return before
