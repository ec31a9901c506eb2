"""Who brought what: the streams of every player's incarnations, and the fragments that each has brought."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Slots = npt.NDArray[np.int64]

StreamKey = tuple[int, int]
"""(player, incarnation)."""

GAP_LENGTH = 2**40
"""Rows that the stream of a hole is said to have had: more than any real one."""


@dataclass
class StreamGroup:
    """The streams of one incarnation of a player: one per environment, all in step.

    Two rows of the pool of tails belong to each stream and are used in turn, so that the tail that counts stays whole
    while the next one is written.
    """

    key: StreamKey
    streams: Slots  # [B] stream ids
    tails: Slots  # [2, B] slots in the pool of tails
    rows: int = 0  # rows each stream has had so far
    last: Slots | None = None  # [B] arrival numbers of the newest rows
    next_sequence: int = 0
    turn: int = 0  # which of the tails count

    @property
    def next_tail(self) -> Slots:
        """[B] slots of the tails that the next fragment is to fill."""
        other: Slots = self.tails[1 - self.turn]
        return other

    def advance(self, rows: int, total: int, sequence: int) -> None:
        """A fragment of `rows` rows was added, up to the arrival number `total`."""
        self.rows += rows
        self.last = np.arange(total - len(self.streams), total)
        self.next_sequence = sequence + 1
        self.turn = 1 - self.turn

    def state_dict(self) -> dict[str, Any]:
        """Return the state as values that JSON can represent."""
        return {
            "key": list(self.key),
            "streams": self.streams.tolist(),
            "tails": self.tails.tolist(),
            "rows": self.rows,
            "last": None if self.last is None else self.last.tolist(),
            "next_sequence": self.next_sequence,
            "turn": self.turn,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> StreamGroup:
        """Return the group of a state from `state_dict`."""
        player, incarnation = state["key"]
        last = None if state["last"] is None else np.array(state["last"], np.int64)
        streams, tails = np.array(state["streams"], np.int64), np.array(state["tails"], np.int64)
        return cls(
            (player, incarnation), streams, tails, state["rows"], last, state["next_sequence"], int(state["turn"])
        )


class Streams:
    """The book of all streams. It knows no rows, only how many there were and where the tails are."""

    def __init__(self) -> None:
        self.groups: dict[StreamKey, StreamGroup] = {}
        self.length: Slots = np.zeros(0, np.int64)  # [streams] rows each stream has had
        self.pool_size = 0  # rows of the pool of tails
        self.newest: dict[int, int] = {}  # by player, its newest incarnation
        self._closed: list[StreamGroup] = []
        self._free_tails: list[int] = []

    def all_groups(self) -> list[StreamGroup]:
        """Those that are closed and may still have rows, and the others."""
        return [*self._closed, *self.groups.values()]

    def expects(self, key: StreamKey) -> int | None:
        """The sequence number of the next fragment; None from an incarnation that has been replaced."""
        if key[1] < self.newest.get(key[0], key[1]):
            return None
        group = self.groups.get(key)
        return group.next_sequence if group else 0

    def open(self, key: StreamKey, envs: int, oldest: int, anew: bool = False) -> StreamGroup:
        """The group of `key`, made if there is none; an older incarnation of the same player is closed.

        Args:
            key: (player, incarnation).
            envs: environments of the player.
            oldest: arrival number of the oldest row that is still stored.
            anew: begin new streams even if the group is there, because fragments in between were lost.
        """
        if key in self.groups and not anew:
            return self.groups[key]
        for other in [other for other in self.groups if other[0] == key[0]]:
            self._closed.append(self.groups.pop(other))
        first = len(self.length)
        self.length = np.concatenate([self.length, np.zeros(envs, np.int64)])
        tails = self._claim_tails(2 * envs, oldest).reshape(2, envs)
        group = StreamGroup(key, np.arange(first, first + envs), tails)
        self.groups[key] = group
        self.newest[key[0]] = key[1]
        return group

    def add_hole(self, rows: int) -> int:
        """A stream for rows that nobody can use: longer than any, so that none of its rows has enough before it."""
        self.length = np.concatenate([self.length, [GAP_LENGTH + rows]])
        return len(self.length) - 1

    def _claim_tails(self, count: int, oldest: int) -> Slots:
        """Rows of the pool of tails, those of closed streams whose last rows are gone among them."""
        gone = [group for group in self._closed if group.last is None or group.last.max() < oldest]
        for group in gone:
            self._closed.remove(group)
            self._free_tails += group.tails.ravel().tolist()
        if (lacking := count - len(self._free_tails)) > 0:
            self._free_tails += range(self.pool_size, self.pool_size + lacking)
            self.pool_size += lacking
        claimed, self._free_tails = self._free_tails[:count], self._free_tails[count:]
        return np.array(claimed, np.int64)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as values that JSON can represent."""
        return {
            "length": self.length.tolist(),
            "pool_size": self.pool_size,
            "newest": [[player, life] for player, life in self.newest.items()],
            "free_tails": self._free_tails,
            "groups": [group.state_dict() for group in self.groups.values()],
            "closed": [group.state_dict() for group in self._closed],
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Streams:
        """Return the streams of a state from `state_dict`."""
        streams = cls()
        streams.length = np.array(state["length"], np.int64)
        streams.pool_size = state["pool_size"]
        streams.newest = {player: life for player, life in state["newest"]}
        streams._free_tails = list(state["free_tails"])
        groups = [StreamGroup.from_state_dict(each) for each in state["groups"]]
        streams.groups = {group.key: group for group in groups}
        streams._closed = [StreamGroup.from_state_dict(each) for each in state["closed"]]
        return streams
