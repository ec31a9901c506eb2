"""The players as the run speaks to them: each may be lost and replaced, or moved to another place with all it holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sheeprl.actors.handle import Handle, LostError
from sheeprl.actors.interfaces import PlayerInterface
from sheeprl.utils.errors import one_line


@dataclass(frozen=True)
class PlayerState:
    """A player's state between two rounds.

    Args:
        incarnation: whose it is.
        data: as `Player.state` gives it.
    """

    incarnation: int
    data: bytes


class PlayerGroup:
    """All players.

    Args:
        number: how many.
        make: handle of player `number` in its `incarnation`.
        incarnations: the newest of each that there was, -1 for none; kept up to date.
        kept: states of players to go on from, by number.
        on_fresh: told of a player whose state couldn't be taken over, and why; it begins anew.
    """

    def __init__(
        self,
        number: int,
        make: Callable[[int, int], Handle],
        incarnations: list[int],
        kept: Mapping[int, PlayerState] | None = None,
        on_fresh: Callable[[int, str], None] = lambda number, reason: None,
    ) -> None:
        self.make = make
        self.incarnations = incarnations
        self.incarnations += [-1] * (number - len(incarnations))
        self.current = list(incarnations)  # which incarnation plays; a state may be of one before the newest
        self.kept = dict(kept or {})
        self.on_fresh = on_fresh
        self.handles: dict[int, Handle] = {}
        self.leaving: set[int] = set()  # players whose place is going to be taken away
        self._making = [asyncio.Lock() for _ in range(number)]

    def __len__(self) -> int:
        return len(self._making)

    async def get(self, number: int) -> Handle:
        """The player of that number: if there is none, one with its kept state, else a new incarnation.

        Raises:
            LostError: it died at being made.
        """
        async with self._making[number]:
            if number not in self.handles and number in self.kept:
                await self._restore(number, self.kept.pop(number))
            if number not in self.handles:
                self.incarnations[number] += 1
                self.current[number] = self.incarnations[number]
                self.handles[number] = self.make(number, self.current[number])
            return self.handles[number]

    async def _restore(self, number: int, kept: PlayerState) -> None:
        """Make the player that a state is of, if it can take it over."""
        handle = self.make(number, kept.incarnation)
        try:
            if await handle.call(PlayerInterface.load, kept.data):
                self.handles[number] = handle
                self.current[number] = kept.incarnation
                return
            reason = "its environments' state wasn't kept"
        except LostError:
            raise
        except Exception as error:
            reason = one_line(error)
        handle.close()
        self.on_fresh(number, reason)

    def drop(self, number: int) -> None:
        """Let go of a player that failed."""
        if number in self.handles:  # it may have failed at being made
            self.handles.pop(number).close()

    async def move(self, number: int) -> None:
        """Let a player go on in another place, where it takes over its state.

        Raises:
            LostError: it died before.
        """
        self.leaving.discard(number)
        handle = self.handles[number]
        self.kept[number] = PlayerState(self.current[number], await handle.call(PlayerInterface.state))
        self.handles.pop(number).close()

    async def states(self, numbers: Sequence[int]) -> dict[int, PlayerState]:
        """What players that have nothing to do hold; without those that can't tell."""
        kept = {}
        for number in numbers:
            with suppress(Exception):  # it is lost, and begins anew
                data = await self.handles[number].call(PlayerInterface.state)
                kept[number] = PlayerState(self.current[number], data)
        return kept

    def close(self) -> None:
        """Let go of all players."""
        for handle in self.handles.values():
            handle.close()
