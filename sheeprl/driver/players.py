"""The driver's client of the players. Lost players are replaced; players move to other processes with their state.

A lost player continues where it stood. The driver holds its *origin*: the last state that it has returned, and the
requests that it has answered since. A player that loads the state and repeats the requests stands at the same place,
since its fragments depend on nothing else. So the result of a run doesn't depend on the deaths of its players.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sheeprl.actors.handle import Handle, LostError, Ref, later
from sheeprl.actors.interfaces import PlayerInterface
from sheeprl.utils.errors import one_line

if TYPE_CHECKING:
    from sheeprl.actors.messages import Fragment, FragmentInfo
    from sheeprl.algos.base import Mode
    from sheeprl.buffer.storage import Rows


@dataclass(frozen=True)
class PlayerState:
    """A player's state between two rounds.

    Args:
        incarnation: incarnation of the player.
        data: result of `Player.state`.
    """

    incarnation: int
    data: bytes


@dataclass(frozen=True)
class Request:
    """Arguments of a player's `collect`. With the player's state, they determine its fragment.

    Args:
        rows: time steps of the fragment.
        weights: reference to the policy weights.
        version: version of the weights.
        mode: mode of `Algorithm.act`.
        progress: progress of the run.
        env_values: attributes of the environments.
    """

    rows: int
    weights: Ref[Rows]
    version: int
    mode: Mode
    progress: float
    env_values: dict[str, Any] | None

    def send(
        self, player: Handle, keep_state: bool = False, unsaved: str | None = None
    ) -> tuple[Ref[FragmentInfo], Ref[Fragment]]:
        """Call `collect` of a player; return the references to its statistics and to the fragment.

        Args:
            player: handle of the player.
            keep_state: True to return the player's state after the fragment.
            unsaved: why the environments' state can't be saved, None if that isn't known.
        """
        own = self.rows, later(self.weights), self.version, self.mode, self.progress
        return player.call_pair(PlayerInterface.collect, *own, keep_state, unsaved, self.env_values)


@dataclass(frozen=True)
class Answered:
    """A request, and statistics of its fragment that are the same whenever it is repeated."""

    request: Request
    policy_steps: int
    returns: tuple[float, ...]

    @classmethod
    def of(cls, request: Request, info: FragmentInfo) -> Answered:
        """Return a request with the statistics of its fragment."""
        return cls(request, info.policy_steps, info.returns)

    def is_repeated_by(self, info: FragmentInfo) -> bool:
        """Return True if a repetition had the same statistics."""
        return (self.policy_steps, self.returns) == (info.policy_steps, info.returns)


@dataclass(frozen=True)
class Origin:
    """A state of a player and the requests that it has answered since.

    Args:
        incarnation: incarnation of the player.
        data: result of `Player.state`; None for the begin of the incarnation.
        answered: the requests.
    """

    incarnation: int
    data: bytes | None = None
    answered: tuple[Answered, ...] = ()


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
        self.keeps_origins = False  # a lost player continues where it stood
        self.origins = {number: Origin(saved.incarnation, saved.data) for number, saved in self.saved_states.items()}
        self.handles: dict[int, Handle] = {}
        self.leaving: set[int] = set()  # players that have to move to another process
        self.playing = [asyncio.Lock() for _ in range(number)]  # held while a player collects
        self._making = [asyncio.Lock() for _ in range(number)]

    def __len__(self) -> int:
        """Return the number of players."""
        return len(self._making)

    async def get(self, number: int) -> Handle:
        """Return the player `number`; if there is none, continue from its origin or start a new incarnation.

        Raises:
            LostError: the player died while it restored its state.
        """
        async with self._making[number]:
            if number not in self.handles and (origin := self.origins.get(number)) is not None:
                if not self.keeps_origins:
                    self.forget(number)
                if reason := await self._continue_from(number, origin):
                    self.on_fresh(number, reason)
            if number not in self.handles:
                self.incarnations[number] += 1
                self.current[number] = self.incarnations[number]
                self.handles[number] = self.make(number, self.current[number])
                if self.keeps_origins:
                    self.origins[number] = Origin(self.current[number])
            return self.handles[number]

    async def _continue_from(self, number: int, origin: Origin) -> str:
        """Make a player that stands where an origin leads to.

        Returns:
            The reason why that is impossible, "" if the player is there.
        """
        handle = self.make(number, origin.incarnation)
        try:
            reason = await _repeat(handle, origin)
        except (LostError, asyncio.CancelledError):
            handle.close()
            raise
        except Exception as error:
            reason = one_line(error)
        if reason:
            handle.close()
        else:
            self.handles[number], self.current[number] = handle, origin.incarnation
        return reason

    def note_answer(self, number: int, request: Request, info: FragmentInfo) -> None:
        """Note that a player has answered a request, with its state if that was requested."""
        origin = self.origins.get(number)
        if not self.keeps_origins:
            self.forget(number)
        elif info.state is not None and not info.unsaved:
            self.origins[number] = Origin(self.current[number], info.state)
        elif origin is not None:
            self.origins[number] = replace(origin, answered=(*origin.answered, Answered.of(request, info)))

    def forget(self, number: int) -> None:
        """Forget the origin of a player; if it is lost, it starts a new incarnation."""
        self.origins.pop(number, None)

    @asynccontextmanager
    async def rewound(self, number: int, origin: Origin) -> AsyncIterator[Handle | None]:
        """Yield a player at an earlier place, None if it can't be brought there. Afterwards it goes on as before.

        Args:
            number: number of the player.
            origin: the origin that leads to the place.

        Raises:
            LostError: the player died.
        """
        async with self._making[number]:
            self.release(number)
            try:
                reason = await self._continue_from(number, origin)
                yield None if reason else self.handles[number]
            finally:
                self.release(number)  # `get` makes it from its newest origin

    def drop(self, number: int) -> None:
        """Release a failed player; it starts elsewhere, so it needn't move."""
        self.leaving.discard(number)
        self.release(number)

    def release(self, number: int) -> None:
        """Release a player, if there is one."""
        if number in self.handles:  # it may have failed before it was stored
            self.handles.pop(number).close()

    async def move(self, number: int) -> None:
        """Release a player and save its state, from which the next `get` restores it in another process.

        Raises:
            LostError: the player died before it returned its state.
        """
        if number in self.handles:
            data = await self.handles[number].call(PlayerInterface.state)
            self.origins[number] = Origin(self.current[number], data)
            self.release(number)
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


async def _repeat(player: Handle, origin: Origin) -> str:
    """Load the state of an origin into a new player and repeat the requests.

    Returns:
        The reason why the player doesn't stand where the origin leads to, "" if it does.
    """
    if origin.data is not None and not await player.call(PlayerInterface.load, origin.data):
        return "its environments' state wasn't saved"
    for answered in origin.answered:
        info, _ = answered.request.send(player)
        if not answered.is_repeated_by(await info):
            return "its environments play differently when they repeat a fragment"
    return ""
