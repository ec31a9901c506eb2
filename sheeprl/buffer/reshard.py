"""Takes over a replay that was saved in another number of shards, or in shards of another size.

Each shard has the streams of the players that are its number modulo the number of shards. So a shard of another layout
picks its players' rows out of all that were saved and adds them again: in the order of their age, in streams that go on
where they were. Of a stream whose oldest rows had begun to be overwritten, up to a row of each environment is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sheeprl.buffer.replay_buffer import Counts, ReplayBuffer
from sheeprl.buffer.saving import DamagedSaveError, read_manifest
from sheeprl.buffer.storage import Rows
from sheeprl.buffer.streams import Slots, StreamGroup, StreamKey

PIECE_ROWS = 64  # of each environment: so long that there are few, so short that their order is that of the rows' age


@dataclass(frozen=True)
class Layout:
    """How a replay is cut up.

    Args:
        shards: how many there are.
        capacity: rows of each.
    """

    shards: int
    capacity: int


@dataclass(frozen=True)
class Piece:
    """Some rows of a player's streams, as they are added.

    Args:
        age: rows that had come to its shard since its last one.
        key: (player, incarnation).
        begins: whether nothing of these streams was before.
        sequence: of the newest fragment of these streams.
        rows: `[T + 1, B, *]` arrays; the last row is the tail.
        priority: `[T, B]` leaves of the sum tree, if the buffer has one.
    """

    age: int
    key: StreamKey
    begins: bool
    sequence: int
    rows: Rows
    priority: npt.NDArray[np.float64] | None


def layout_of(folder: Path) -> Layout:
    """How the replay in a checkpoint's folder is cut up.

    Raises:
        DamagedSaveError: it can't be read.
    """
    shards = len(list(folder.glob("shard_*")))
    if not shards:
        raise DamagedSaveError(f"{folder}: holds no shard")
    return Layout(shards, int(read_manifest(folder / "shard_0")["book"]["capacity"]))


def load(buffer: ReplayBuffer, folder: Path, shard: int, shards: int) -> None:
    """Fill a buffer with what falls to it, in the place of what it holds.

    Args:
        buffer: of the shard.
        folder: of the checkpoint's replay, with all shards of the old layout.
        shard: the new number.
        shards: how many there are now.

    Raises:
        DamagedSaveError: a file isn't as it was written.
        RefusedFragmentError: the buffer is smaller than a row of each of a player's environments.
    """
    before = layout_of(folder)
    workers: list[Piece] = []
    newest: dict[int, int] = {}
    gone, counts = 0, Counter[str]()
    for number in range(before.shards):
        saved = _read(buffer, folder / f"shard_{number}", before.capacity)
        groups = list(_groups_of(saved))
        for group, slots in groups:
            if group.key[0] % shards == shard:
                workers += _cut(saved, group, slots, buffer.storage.capacity)
        newest |= {player: life for player, life in saved.storage.streams.newest.items() if player % shards == shard}
        if number % shards == shard:  # so that each is counted once
            gone += saved.added - sum(slots.size for _, slots in groups)
            counts.update(asdict(saved.counts))
    buffer.storage.clear()
    for piece in sorted(workers, key=lambda piece: -piece.age):
        _add(buffer, piece)
    buffer.storage.streams.newest |= newest
    buffer.storage.count_gone(gone)
    buffer.adopt(Counts(**counts))


def _read(like: ReplayBuffer, folder: Path, capacity: int) -> ReplayBuffer:
    """A saved shard, in memory."""
    prioritized = like.priorities.prioritized if like.priorities else None
    saved = ReplayBuffer(capacity, like.sampler, prioritized=prioritized)
    saved.load(folder)
    return saved


def _groups_of(saved: ReplayBuffer) -> Iterator[tuple[StreamGroup, Slots]]:
    """Every player's streams that have rows, and their slots [T, B], oldest first."""
    storage = saved.storage
    if not storage.rows:
        return
    slots = np.argsort(storage.numbers(np.arange(storage.size)))
    stream = storage.index["stream"][slots]
    for group in storage.streams.all_groups():
        columns = [slots[stream == number] for number in group.streams]
        if rows := min(map(len, columns)):
            yield group, np.stack([column[-rows:] for column in columns], axis=1)


def _cut(saved: ReplayBuffer, group: StreamGroup, slots: Slots, capacity: int) -> Iterator[Piece]:
    """A player's rows at `slots` [T, B] in pieces that a buffer of `capacity` rows takes."""
    storage = saved.storage
    most = max(1, min(PIECE_ROWS, capacity // slots.shape[1]))
    for begin in range(0, len(slots), most):
        own = slots[begin : begin + most]
        with_tail = np.concatenate([own, storage.follow(own[-1])[None]])
        rows = {name: storage.get(name, with_tail) for name in storage.rows}
        priority = saved.priorities.tree.leaves[own] if saved.priorities else None
        age = storage.total - int(storage.numbers(own[-1]).max())
        yield Piece(age, group.key, begin == 0, group.next_sequence - 1, rows, priority)


def _add(buffer: ReplayBuffer, piece: Piece) -> None:
    storage = buffer.storage
    begin = storage.total
    storage.add(piece.key, piece.rows, piece.sequence, anew=piece.begins)
    if buffer.priorities and piece.priority is not None:
        buffer.priorities.put(storage, np.arange(begin, storage.total), piece.priority.ravel())
