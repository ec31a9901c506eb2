"""Load a replay that was saved with another number of shards, or with shards of another capacity, or by another run.

A shard stores the streams of all players whose number modulo the number of shards equals the shard's number. To load
another layout, a shard selects the rows of its players from all saved shards. It adds them again in the order of their
age, to streams that the players continue. If the oldest rows of a stream were being overwritten, up to one row per
environment is dropped. Rows of another run are divided evenly among the shards, and no player continues their streams.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sheeprl.buffer.places import DamagedSaveError, Place, count_shards, place_of
from sheeprl.buffer.replay_buffer import Counts, ReplayBuffer
from sheeprl.buffer.saving import read_index
from sheeprl.buffer.storage import Rows
from sheeprl.buffer.streams import Slots, StreamGroup, StreamKey

PIECE_ROWS = (
    64  # per environment: many, so that there are few pieces; few, so that their order is that of the rows' age
)


@dataclass(frozen=True)
class Layout:
    """Layout of a sharded replay.

    Args:
        shards: number of shards.
        capacity: capacity of each shard in rows.
    """

    shards: int
    capacity: int


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of a player's streams, to be added to a new shard.

    Args:
        age: rows added to the saved shard since the last row of the piece.
        key: (player, incarnation).
        new_streams: True for the first piece of its streams.
        sequence: sequence number of the newest fragment of the streams.
        rows: `[T + 1, B, *]` arrays; the last row is the bootstrap row.
        priority: `[T, B]` leaves of the sum tree; None if the buffer is not prioritized.
    """

    age: int
    key: StreamKey
    new_streams: bool
    sequence: int
    rows: Rows
    priority: npt.NDArray[np.float64] | None


def layout_of(folder: Path | str) -> Layout:
    """Return the layout of a saved replay.

    Args:
        folder: its folder, or the URL of its checkpoint's manifest.

    Raises:
        DamagedSaveError: the folder contains no shard, or a manifest is damaged.
    """
    shards = count_shards(folder)
    if not shards:
        raise DamagedSaveError(f"{folder}: contains no shard")
    return Layout(shards, int(read_index(place_of(folder, 0))["book"]["capacity"]))


def load(buffer: ReplayBuffer, folder: Path | str, shard: int, shards: int) -> None:
    """Replace the rows of a buffer by those of its players in a saved replay.

    Args:
        buffer: buffer of the new shard.
        folder: folder of the saved replay, or the URL of its checkpoint's manifest.
        shard: number of the new shard.
        shards: new number of shards.

    Raises:
        DamagedSaveError: a file is missing or altered.
        RefusedFragmentError: the capacity is less than the number of a player's environments.
    """
    pieces: list[Piece] = []
    newest: dict[int, int] = {}
    evicted, counts = 0, Counter[str]()
    for number, saved in enumerate(_shards_of(buffer, folder)):
        groups = list(_groups_of(saved))
        for group, slots in groups:
            if group.key[0] % shards == shard:
                pieces += _cut(saved, group, slots, buffer.storage.capacity)
        newest |= {
            player: incarnation
            for player, incarnation in saved.storage.streams.newest.items()
            if player % shards == shard
        }
        if number % shards == shard:  # so that each saved shard is counted once
            evicted += saved.added - sum(slots.size for _, slots in groups)
            counts.update(asdict(saved.counts))
    buffer.storage.clear()
    for piece in sorted(pieces, key=lambda piece: -piece.age):
        _add(buffer, piece)
    buffer.storage.streams.newest |= newest
    buffer.storage.count_evicted(evicted)
    buffer.adopt(Counts(**counts))


def add_initial(buffer: ReplayBuffer, folder: Path | str, shard: int, shards: int) -> None:
    """Replace the rows of a buffer by rows that another run has saved, as streams that no player continues.

    Each shard gets an equal part of each stream, and together they get the newest rows. Incarnations of the other run
    become negative numbers. The rows have the priority of new ones, and `online_fraction` doesn't draw them.

    Args:
        buffer: buffer of the shard.
        folder: folder of the saved replay, or the URL of its checkpoint's manifest.
        shard: number of the shard.
        shards: number of shards.

    Raises:
        DamagedSaveError: a file is missing or altered.
        RefusedFragmentError: the capacity is less than the number of a player's environments.
    """
    capacity = buffer.storage.capacity
    most = capacity * shards // layout_of(folder).shards  # rows of a saved shard
    pieces: list[Piece] = []
    for saved in _shards_of(buffer, folder):
        storage = saved.storage
        for group, slots in _groups_of(saved):
            new = slots[storage.total - storage.numbers(slots[:, 0]) <= most]
            player, incarnation = group.key
            # The number of a player of this shard, so that a later load finds the streams.
            key = player * shards + shard, incarnation - storage.streams.newest[player] - 1
            own = np.array_split(new, shards)[shard]
            pieces += [replace(piece, key=key, priority=None) for piece in _cut(saved, group, own, capacity)]
    del saved, storage  # the pieces have copies
    buffer.storage.clear()
    for piece in sorted(pieces, key=lambda piece: -piece.age):
        _add(buffer, piece)
    buffer.adopt(Counts(initial_rows=buffer.added))


def _shards_of(like: ReplayBuffer, folder: Path | str) -> Iterator[ReplayBuffer]:
    """Yield every shard of a saved replay, in memory; see `_read`."""
    layout = layout_of(folder)
    for number in range(layout.shards):
        yield _read(like, place_of(folder, number), layout.capacity)


def _read(like: ReplayBuffer, place: Place, capacity: int) -> ReplayBuffer:
    """Return a saved shard in memory, with the sampler and the priorities of `like`."""
    prioritized = like.priorities.prioritized if like.priorities else None
    saved = ReplayBuffer(capacity, like.sampler, prioritized=prioritized)
    saved.load(place)
    return saved


def _groups_of(saved: ReplayBuffer) -> Iterator[tuple[StreamGroup, Slots]]:
    """Yield every group of streams with stored rows, and its slots `[T, B]`, oldest first."""
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
    """Yield the rows at the slots `[T, B]` in pieces that fit into a buffer of `capacity` rows."""
    storage = saved.storage
    length = max(1, min(PIECE_ROWS, capacity // slots.shape[1]))
    for begin in range(0, len(slots), length):
        part = slots[begin : begin + length]
        with_next = np.concatenate([part, storage.follow(part[-1])[None]])
        rows = {name: storage.get(name, with_next) for name in storage.rows}
        priority = saved.priorities.tree.leaves[part] if saved.priorities else None
        age = storage.total - int(storage.numbers(part[-1]).max())
        yield Piece(age, group.key, begin == 0, group.next_sequence - 1, rows, priority)


def _add(buffer: ReplayBuffer, piece: Piece) -> None:
    """Add a piece to the buffer, with its priorities."""
    storage = buffer.storage
    begin = storage.total
    storage.add(piece.key, piece.rows, piece.sequence, new_streams=piece.new_streams)
    if buffer.priorities and piece.priority is not None:
        buffer.priorities.set_leaves(storage, np.arange(begin, storage.total), piece.priority.ravel())
