"""Streams of arrival rows, and the fragments that each player's incarnations have added to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Slots = npt.NDArray[np.int64]

StreamKey = tuple[int, int]
"""(player, incarnation)."""

GAP_LENGTH = 2**40
"""Length of the stream of a gap: longer than any real stream."""


@dataclass
class StreamGroup:
    """The streams of one incarnation of a player: one per environment, all of the same length.

    Each stream has two slots in the pool of bootstrap rows and uses them in turn. So its current bootstrap row stays
    intact while the next one is written.

    Args:
        key: (player, incarnation).
        streams: `[B]` stream ids.
        bootstrap_slots: `[2, B]` slots in the pool of bootstrap rows.
        rows: rows added to each stream.
        last: `[B]` arrival numbers of the newest rows; None before the first fragment.
        next_sequence: sequence number of the next fragment.
        turn: index of the current bootstrap slots, 0 or 1.
    """

    key: StreamKey
    streams: Slots
    bootstrap_slots: Slots
    rows: int = 0
    last: Slots | None = None
    next_sequence: int = 0
    turn: int = 0

    @property
    def next_bootstrap_slots(self) -> Slots:
        """Return the `[B]` slots in the pool for the bootstrap rows of the next fragment."""
        other: Slots = self.bootstrap_slots[1 - self.turn]
        return other

    def advance(self, rows: int, total: int, sequence: int) -> None:
        """Count an added fragment.

        Args:
            rows: rows added to each stream.
            total: rows ever added to the storage, including this fragment.
            sequence: sequence number of the fragment.
        """
        self.rows += rows
        self.last = np.arange(total - len(self.streams), total)
        self.next_sequence = sequence + 1
        self.turn = 1 - self.turn

    def state_dict(self) -> dict[str, Any]:
        """Return the state as values that JSON can represent."""
        return {
            "key": list(self.key),
            "streams": self.streams.tolist(),
            "tails": self.bootstrap_slots.tolist(),
            "rows": self.rows,
            "last": None if self.last is None else self.last.tolist(),
            "next_sequence": self.next_sequence,
            "turn": self.turn,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> StreamGroup:
        """Return the group of a state from `state_dict`."""
        player, incarnation = state["key"]
        return cls(
            (player, incarnation),
            np.array(state["streams"], np.int64),
            np.array(state["tails"], np.int64),
            state["rows"],
            None if state["last"] is None else np.array(state["last"], np.int64),
            state["next_sequence"],
            int(state["turn"]),
        )


class Streams:
    """Registry of all streams: their lengths, their next fragments and their slots in the pool of bootstrap rows."""

    def __init__(self) -> None:
        """Start without streams."""
        self.groups: dict[StreamKey, StreamGroup] = {}
        self.length: Slots = np.zeros(0, np.int64)  # [streams] rows added to each stream
        self.pool_size = 0  # slots in the pool of bootstrap rows
        self.newest: dict[int, int] = {}  # newest incarnation by player
        self._closed: list[StreamGroup] = []
        self._free_slots: list[int] = []

    def all_groups(self) -> list[StreamGroup]:
        """Return all groups, the closed ones that may still have rows first."""
        return [*self._closed, *self.groups.values()]

    def expected_sequence(self, key: StreamKey) -> int | None:
        """Return the sequence number of the next fragment; None for a replaced incarnation."""
        if key[1] < self.newest.get(key[0], key[1]):
            return None
        group = self.groups.get(key)
        return group.next_sequence if group else 0

    def open(self, key: StreamKey, envs: int, oldest: int, new_streams: bool = False) -> StreamGroup:
        """Return the group of `key`. Create it if it does not exist, and close the player's older groups.

        Args:
            key: (player, incarnation).
            envs: number of environments of the player.
            oldest: arrival number of the oldest stored row.
            new_streams: begin new streams even if the group exists, because fragments in between were lost.
        """
        if key in self.groups and not new_streams:
            return self.groups[key]
        for other in [other for other in self.groups if other[0] == key[0]]:
            self._closed.append(self.groups.pop(other))
        first = len(self.length)
        self.length = np.concatenate([self.length, np.zeros(envs, np.int64)])
        slots = self._claim_bootstrap_slots(2 * envs, oldest).reshape(2, envs)
        group = StreamGroup(key, np.arange(first, first + envs), slots)
        self.groups[key] = group
        self.newest[key[0]] = key[1]
        return group

    def add_gap(self, rows: int) -> int:
        """Add a stream for unusable rows and return its id.

        The stream is longer than any other, so none of its rows has enough rows before it for a sample.
        """
        self.length = np.concatenate([self.length, [GAP_LENGTH + rows]])
        return len(self.length) - 1

    def _claim_bootstrap_slots(self, count: int, oldest: int) -> Slots:
        """Return `count` slots of the pool. Reuse those of closed streams without stored rows."""
        evicted = [group for group in self._closed if group.last is None or group.last.max() < oldest]
        for group in evicted:
            self._closed.remove(group)
            self._free_slots += group.bootstrap_slots.ravel().tolist()
        if (missing := count - len(self._free_slots)) > 0:
            self._free_slots += range(self.pool_size, self.pool_size + missing)
            self.pool_size += missing
        claimed, self._free_slots = self._free_slots[:count], self._free_slots[count:]
        return np.array(claimed, np.int64)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as values that JSON can represent."""
        return {
            "length": self.length.tolist(),
            "pool_size": self.pool_size,
            "newest": [[player, incarnation] for player, incarnation in self.newest.items()],
            "free_tails": self._free_slots,
            "groups": [group.state_dict() for group in self.groups.values()],
            "closed": [group.state_dict() for group in self._closed],
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Streams:
        """Return the streams of a state from `state_dict`."""
        streams = cls()
        streams.length = np.array(state["length"], np.int64)
        streams.pool_size = state["pool_size"]
        streams.newest = {player: incarnation for player, incarnation in state["newest"]}
        streams._free_slots = list(state["free_tails"])
        groups = [StreamGroup.from_state_dict(each) for each in state["groups"]]
        streams.groups = {group.key: group for group in groups}
        streams._closed = [StreamGroup.from_state_dict(each) for each in state["closed"]]
        return streams
