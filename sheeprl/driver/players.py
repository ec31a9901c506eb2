"""The driver's client of the players. Lost players are replaced; players move to other processes with their state."""

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
        incarnation: incarnation of the player.
        data: result of `Player.state`.
    """

    incarnation: int
    data: bytes


class PlayerGroup:
    """The group of all players.

    Args:
        number: number of players.
        make: returns the handle of player `number` in its `incarnation`.
        incarnations: newest incarnation of each player, -1 for none; the group updates this list.
        saved_states: states that players continue from, by number.
        on_fresh: called with a player's number and the reason if its state can't be restored; the player starts new
            episodes.
    """

    def __init__(
        self,
        number: int,
        make: Callable[[int, int], Handle],
        incarnations: list[int],
        saved_states: Mapping[int, PlayerState] | None = None,
        on_fresh: Callable[[int, str], None] = lambda number, reason: None,
    ) -> None:
        """Store the states; `get` makes the players."""
        self.make = make
        self.incarnations = incarnations
        self.incarnations += [-1] * (number - len(incarnations))
        self.current = list(incarnations)  # incarnation that collects; a restored one may be older than the newest
        self.saved_states = dict(saved_states or {})
        self.on_fresh = on_fresh
        self.handles: dict[int, Handle] = {}
        self.leaving: set[int] = set()  # players that have to move to another process
        self._making = [asyncio.Lock() for _ in range(number)]

    def __len__(self) -> int:
        """Return the number of players."""
        return len(self._making)

    async def get(self, number: int) -> Handle:
        """Return the player `number`; if there is none, restore its saved state or start a new incarnation.

        Raises:
            LostError: the player died while it restored its state.
        """
        async with self._making[number]:
            if number not in self.handles and number in self.saved_states:
                await self._restore(number, self.saved_states.pop(number))
            if number not in self.handles:
                self.incarnations[number] += 1
                self.current[number] = self.incarnations[number]
                self.handles[number] = self.make(number, self.current[number])
            return self.handles[number]

    async def _restore(self, number: int, saved: PlayerState) -> None:
        """Start a player from a saved state, if its environments can be restored."""
        handle = self.make(number, saved.incarnation)
        try:
            if await handle.call(PlayerInterface.load, saved.data):
                self.handles[number] = handle
                self.current[number] = saved.incarnation
                return
            reason = "its environments' state wasn't saved"
        except LostError:
            raise
        except Exception as error:
            reason = one_line(error)
        handle.close()
        self.on_fresh(number, reason)

    def drop(self, number: int) -> None:
        """Release a failed player; it starts elsewhere, so it needn't move."""
        self.leaving.discard(number)
        if number in self.handles:  # it may have failed before it was stored
            self.handles.pop(number).close()

    async def move(self, number: int) -> None:
        """Release a player and save its state, from which the next `get` restores it in another process.

        Raises:
            LostError: the player died before it returned its state.
        """
        if number in self.handles:
            data = await self.handles[number].call(PlayerInterface.state)
            self.saved_states[number] = PlayerState(self.current[number], data)
            self.handles.pop(number).close()
        self.leaving.discard(number)

    async def states(self, numbers: Sequence[int]) -> dict[int, PlayerState]:
        """Return the states of idle players, without players that fail."""
        states = {}
        for number in numbers:
            with suppress(Exception):  # a lost player starts new episodes later
                data = await self.handles[number].call(PlayerInterface.state)
                states[number] = PlayerState(self.current[number], data)
        return states

    def close(self) -> None:
        """Release all players."""
        for handle in self.handles.values():
            handle.close()
