"""Form rounds of the players' fragments: of one fragment from each player, or of the first ones that arrive.

A round is what the trainers get at once. `WholeRounds` is exact: what is learned doesn't depend on which player was
faster. With `QuorumRounds`, no player waits for a slow one: a round closes with a part of the players' fragments, and
the others join later rounds. No fragment is dropped.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sheeprl.actors.handle import Ref
    from sheeprl.actors.messages import Fragment, FragmentInfo
    from sheeprl.config.schema import Config
    from sheeprl.driver.players import Origin, Request


@dataclass(frozen=True)
class CollectedFragment:
    """A fragment on its way from a player to the replay buffer.

    Args:
        player: number of the player.
        info: statistics of the fragment, and the player's state if it was requested.
        fragment: reference to the rows.
        incarnation: incarnation of the player that collected it.
        request: request that it answers.
        origin: leads to the place where the player began it, None if it can't be played again.
    """

    player: int
    info: FragmentInfo
    fragment: Ref[Fragment]
    incarnation: int
    request: Request
    origin: Origin | None = None


class Signal:
    """Wakes all coroutines that wait for a change, in one turn of the event loop.

    Requests of players that share a process then leave together. The waiters of an `asyncio.Condition` would wake one
    after another.
    """

    def __init__(self) -> None:
        """Start without waiters."""
        self._waiters: dict[asyncio.Future[None], None] = {}  # in the order of their arrival

    async def wait_for(self, predicate: Callable[[], bool]) -> None:
        """Wait until a condition holds; it is checked now and after each notification."""
        while not predicate():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters[waiter] = None
            try:
                await waiter
            finally:
                del self._waiters[waiter]

    def notify_all(self) -> None:
        """Wake all waiters."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class Rounds(ABC):
    """Fragments that are collected or wait for their round.

    Args:
        players: number of players.
        added: rounds in the buffer.
    """

    def __init__(self, players: int, added: int) -> None:
        """Start without fragments."""
        self.players, self.added = players, added

    @property
    @abstractmethod
    def is_exact(self) -> bool:
        """Return True if a round has the same fragments whatever the speed of the players."""

    @property
    @abstractmethod
    def newest(self) -> int:
        """Return the newest round that a player may be collecting for."""

    @property
    @abstractmethod
    def newest_requested(self) -> int:
        """Return the newest round that is complete once the requested fragments arrive."""

    @property
    @abstractmethod
    def idle(self) -> list[int]:
        """Return the players all of whose fragments are in the buffer."""

    @abstractmethod
    def round_of(self, player: int) -> int | None:
        """Return the round of the player's next fragment, None if the player can't begin one yet."""

    @abstractmethod
    def last_round_of(self, player: int, version: int) -> int:
        """Return the last round after which a fragment, begun with weights of a version, may be the player's newest."""

    @abstractmethod
    def begin(self, player: int, version: int) -> int:
        """Note that a fragment is requested from a player, or requested again, with weights of a version.

        Returns:
            The round of the fragment, if fragments arrive in the order of their begin.
        """

    @abstractmethod
    def put(self, fragment: CollectedFragment) -> None:
        """Store a fragment until its round is taken."""

    @abstractmethod
    async def take(self) -> list[CollectedFragment]:
        """Wait for the fragments of the next round, and return them in the order of the players."""

    @abstractmethod
    def give_up(self, player: int) -> None:
        """Note that a fragment of the round that was taken is lost."""

    @abstractmethod
    async def take_again(self, player: int) -> CollectedFragment:
        """Wait for a fragment that replaces a player's lost one."""

    @abstractmethod
    def close(self) -> None:
        """Note that the round that was taken is in the buffer."""


class WholeRounds(Rounds):
    """Rounds of one fragment from each player."""

    def __init__(self, players: int, added: int) -> None:
        """Start without fragments."""
        super().__init__(players, added)
        self._next = [added] * players  # next round of each player
        self._requested = [added - 1] * players  # newest round requested from each player
        self._inbox: list[asyncio.Queue[CollectedFragment]] = [asyncio.Queue() for _ in range(players)]

    @property
    def is_exact(self) -> bool:
        """Return True."""
        return True

    @property
    def newest(self) -> int:
        """Return the newest round of a player."""
        return max(self._next)

    @property
    def newest_requested(self) -> int:
        """Return the newest round requested from a player."""
        return max(self._requested)

    @property
    def idle(self) -> list[int]:
        """Return the players that have finished the newest round and have not begun another."""
        return [player for player, newest in enumerate(self._requested) if newest < self.added]

    def round_of(self, player: int) -> int:
        """Return the player's next round."""
        return self._next[player]

    def last_round_of(self, player: int, version: int) -> int:
        """Return the player's next round."""
        return self._next[player]

    def begin(self, player: int, version: int) -> int:
        """Note that the next round is requested from a player."""
        self._requested[player] = self._next[player]
        return self._next[player]

    def put(self, fragment: CollectedFragment) -> None:
        """Store a player's fragment."""
        self._next[fragment.player] += 1
        self._inbox[fragment.player].put_nowait(fragment)

    async def take(self) -> list[CollectedFragment]:
        """Wait for a fragment from each player."""
        return [await inbox.get() for inbox in self._inbox]

    def give_up(self, player: int) -> None:
        """Permit a player one more round."""
        self._next[player] -= 1

    async def take_again(self, player: int) -> CollectedFragment:
        """Wait for the player's next fragment."""
        return await self._inbox[player].get()

    def close(self) -> None:
        """Count a round."""
        self.added += 1


class QuorumRounds(Rounds):
    """Rounds of the first fragments that arrive, within the bound on the age of weights.

    A fragment that was begun with weights of version v joins round v + `max_staleness` at the latest. So a round takes
    the fragments with the oldest weights, and it waits for fragments that would otherwise come too late. At most `size`
    fragments are begun for each round that these weights may serve, so all of them find a place in time.

    Args:
        players: number of players.
        added: rounds in the buffer.
        size: fragments of a round.
        max_staleness: versions by which the weights of a fragment may be older than those that train on it.
        apart: True if a round has at most one fragment of a player.
    """

    def __init__(self, players: int, added: int, size: int, max_staleness: int, apart: bool) -> None:
        """Start without fragments."""
        super().__init__(players, added)
        self.size, self.max_staleness, self.apart = size, max_staleness, apart
        self._collecting: dict[int, int] = {}  # version of the weights of each player that collects
        self._waiting: list[CollectedFragment] = []
        self._taken: list[int] = []  # players of the round that is being added
        self._arrived = Signal()

    @property
    def begun(self) -> int:
        """Return the number of fragments that are begun and not in the buffer."""
        return len(self._collecting) + len(self._waiting) + len(self._taken)

    @property
    def is_exact(self) -> bool:
        """Return False."""
        return False

    @property
    def newest(self) -> int:
        """Return the last round that a fragment may join."""
        return max(self._collecting.values(), default=self.added) + self.max_staleness

    @property
    def newest_requested(self) -> int:
        """Return the newest round for which enough fragments are begun."""
        return self.added + self.begun // self.size - 1

    @property
    def idle(self) -> list[int]:
        """Return the players without a fragment that isn't in the buffer."""
        busy = {*self._collecting, *self._taken, *(fragment.player for fragment in self._waiting)}
        return [player for player in range(self.players) if player not in busy]

    def round_of(self, player: int) -> int | None:
        """Return the round of the next fragment, if fragments arrive in the order of their begin."""
        if self.apart and player not in self.idle:
            return None
        return self.added + self.begun // self.size

    def last_round_of(self, player: int, version: int) -> int:
        """Return a round by which the player's next fragment has joined."""
        return version + 2 * self.max_staleness + 1

    def begin(self, player: int, version: int) -> int:
        """Note the weights of a player's fragment."""
        self._collecting[player] = version
        return self.added + (self.begun - 1) // self.size

    def put(self, fragment: CollectedFragment) -> None:
        """Store a fragment."""
        del self._collecting[fragment.player]
        self._waiting.append(fragment)
        self._arrived.notify_all()

    async def take(self) -> list[CollectedFragment]:
        """Wait until a round can close: it has its fragments, and the others will not come too late."""
        await self._arrived.wait_for(self._can_close)
        chosen = self._oldest[: self.size]
        self._remove(chosen)
        return sorted(chosen, key=lambda fragment: fragment.player)

    @property
    def _oldest(self) -> list[CollectedFragment]:
        """Return the fragments that wait, those with the oldest weights first."""
        return sorted(self._waiting, key=lambda fragment: fragment.info.version)

    def _remove(self, chosen: list[CollectedFragment]) -> None:
        """Move fragments from those that wait to those that are being added."""
        self._waiting = [fragment for fragment in self._waiting if fragment not in chosen]
        self._taken += [fragment.player for fragment in chosen]

    def _can_close(self) -> bool:
        """Return True if enough fragments wait, and later rounds have places in time for all others."""
        if len(self._waiting) < self.size:
            return False
        late = [fragment.info.version for fragment in self._oldest[self.size :]]
        last = [version + self.max_staleness for version in (*late, *self._collecting.values())]
        later = range(self.max_staleness + 1)
        return all(sum(end <= self.added + after for end in last) <= self.size * after for after in later)

    def give_up(self, player: int) -> None:
        """Free the place of a lost fragment for another one."""
        self._taken.remove(player)

    async def take_again(self, player: int) -> CollectedFragment:
        """Wait for the next fragment of any player."""
        await self._arrived.wait_for(lambda: bool(self._waiting))
        chosen = self._oldest[:1]
        self._remove(chosen)
        return chosen[0]

    def close(self) -> None:
        """Count a round."""
        self.added += 1
        self._taken = []


def make_rounds(config: Config, added: int) -> Rounds:
    """Return the rounds of a run.

    Args:
        config: configuration of the run.
        added: rounds in the buffer.
    """
    if config.players.quorum == 1.0:
        return WholeRounds(config.num_players, added)
    on_policy = not config.algo.data().is_off_policy
    return QuorumRounds(config.num_players, added, config.round_fragments, config.max_staleness, on_policy)
