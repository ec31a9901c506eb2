"""Place players on hosts: processes that hold one or several players each, which come, go and are lost.

A player is a logical worker: its number determines its seeds, its shard and its rows. A host is where it runs. The
driver calls players by `PlayerHandle`; calls of `collect` to players of one host, made in one turn of the event loop,
are sent as one call. A moved player continues from its state, so the result of a run doesn't depend on its hosts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Generator, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from sheeprl.actors.demand import Demand
from sheeprl.actors.handle import HostHandle, LostError, PartRef, Ref, awaited, consume_exception, method_name
from sheeprl.actors.interfaces import CollectRequest, HostInterface
from sheeprl.utils.errors import one_line

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
GAIN = 0.8  # a player moves to balance the hosts' speeds if the slowest host then needs at most this part of its time
REST = 60.0  # seconds between two moves to balance speeds, and between two hosts that end before they are up
SMOOTHING = 0.1  # weight of the newest fragment in the seconds of a host
FAILURES = 2  # players in a row that fail on a host, after which the others leave it
MOST_GIVEN_UP = 3  # hosts that are given up for the failures of their players; failures on more hosts have other causes


class HostClient:
    """The driver's client of a host, which is a process that holds players.

    Args:
        name: name of the process, for messages.
        handle: its handle.
    """

    def __init__(self, name: str, handle: HostHandle) -> None:
        """Request the node of the process, which it returns once it is up."""
        self.name, self.handle = name, handle
        self.players: set[int] = set()
        self.node = asyncio.ensure_future(awaited(handle.call(HostInterface.node)))
        self.node.add_done_callback(consume_exception)  # the next call to a lost host raises, too
        self.leaves_because = ""  # reason why its players move and no other comes; "" if they stay
        self.seconds: float | None = None  # of a fragment, smoothed
        self.failures = 0  # of players in a row
        self._has_died = False
        self._batch: _Batch | None = None

    @property
    def is_lost(self) -> bool:
        """Return True if a call has failed because the process ended."""
        return self._has_died or (self.node.done() and (self.node.cancelled() or self.node.exception() is not None))

    @property
    def why_not_up(self) -> str:
        """Return why the process ended before it was up, "" if it was up or hasn't ended."""
        error = None if not self.node.done() or self.node.cancelled() else self.node.exception()
        return "" if error is None else one_line(error)

    @property
    def is_up(self) -> bool:
        """Return True once the process responds."""
        return self.node.done() and not self.is_lost

    @property
    def is_open(self) -> bool:
        """Return True if players may come."""
        return self.is_up and not self.leaves_because

    def call(self, number: int, method: str, *args: Any) -> Ref[Any]:
        """Call a method of a player, after the calls that wait for others if one of them is the player's."""
        if self._batch is not None and self._batch.holds(number):
            self._batch.send()
        return _WatchedRef(self, self.handle.call(HostInterface.call_player, number, method, *args))

    def collect(self, request: CollectRequest, shared: tuple[Any, ...]) -> tuple[Ref[Any], Ref[Any]]:
        """Call `collect` of a player, together with the calls to other players in this turn of the event loop.

        Args:
            request: number of the player, and its own arguments.
            shared: the other arguments.
        """
        if self._batch is None or not self._batch.fits(shared):
            self._batch = _Batch(self, shared)
        return self._batch.add(request)

    def has_died(self) -> None:
        """Note that the process ended."""
        self._has_died = True

    def note(self, seconds: float | None) -> None:
        """Note the time of a player's fragment, None if the player failed."""
        self.failures = self.failures + 1 if seconds is None else 0
        if seconds is not None:
            before = seconds if self.seconds is None else self.seconds
            self.seconds = before + SMOOTHING * (seconds - before)


class _WatchedRef(PartRef[T]):
    """A reference to the result of a call to a host, which notes the host's loss."""

    def __init__(self, host: HostClient, ref: Ref[T]) -> None:
        """Store the host and the reference."""
        super().__init__(lambda: ref)
        self.host = host

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for the result."""
        try:
            return (yield from self.get().__await__())
        except LostError:
            self.host.has_died()
            raise


class _Batch:
    """Calls of `collect` to players of one host with equal arguments, sent as one call in the next turn of the loop."""

    def __init__(self, host: HostClient, shared: tuple[Any, ...]) -> None:
        """Start without calls."""
        self.host, self.shared = host, shared
        self.requests: list[CollectRequest] = []
        self._refs: Sequence[Ref[Any]] = ()  # of the outcomes, then of each fragment
        self._answer = asyncio.ensure_future(self._outcomes())
        self._answer.add_done_callback(consume_exception)

    def fits(self, shared: tuple[Any, ...]) -> bool:
        """Return True if a call with these arguments can join."""
        if self._refs:
            return False
        return all(ours is other or ours == other for ours, other in zip(self.shared, shared, strict=True))

    def holds(self, number: int) -> bool:
        """Return True if one of the calls is to a player."""
        return any(number == player for player, *_ in self.requests)

    def add(self, request: CollectRequest) -> tuple[Ref[Any], Ref[Any]]:
        """Add a call; return the references to the statistics and to the fragment."""
        place = len(self.requests)
        self.requests.append(request)
        return _InfoRef(self, place), PartRef(lambda: self._fragment(place))

    def send(self) -> None:
        """Send the calls, if they aren't sent yet."""
        if not self._refs:
            count = 1 + len(self.requests)
            self._refs = self.host.handle.call_parts(HostInterface.collect, count, self.requests, *self.shared)

    def _fragment(self, place: int) -> Ref[Any]:
        """Return the reference to a fragment."""
        self.send()
        return self._refs[1 + place]

    async def _outcomes(self) -> Sequence[Any]:
        """Send the calls and return the statistics or the exception of each player."""
        self.send()
        try:
            outcomes: Sequence[Any] = await self._refs[0]
        except LostError:
            self.host.has_died()
            raise
        for outcome in outcomes:
            self.host.note(None if isinstance(outcome, Exception) else outcome.seconds)
        return outcomes

    async def info(self, place: int) -> Any:
        """Return the statistics of a fragment.

        Raises:
            LostError: the host was lost.
            Exception: the player failed.
        """
        outcome = (await asyncio.shield(self._answer))[place]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class _InfoRef(PartRef[Any]):
    """A reference to the statistics of a fragment, which only the driver awaits."""

    def __init__(self, batch: _Batch, place: int) -> None:
        """Store the batch and the place of the player in it."""
        self.batch, self.place = batch, place

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the statistics."""
        return self.batch.info(self.place).__await__()


class PlayerHandle:
    """Handle of one player on a host.

    Args:
        host: the host.
        number: number of the player.
        on_close: called when the player is released.
    """

    def __init__(self, host: HostClient, number: int, on_close: Callable[[HostClient, int], None]) -> None:
        """Store the host."""
        self.host, self.number, self.on_close = host, number, on_close
        self._is_closed = False

    def call(self, method: Callable[Concatenate[Any, P], T], *args: P.args, **kwargs: P.kwargs) -> Ref[T]:
        """Start a method."""
        return self.host.call(self.number, method_name(method, kwargs), *args)

    def call_pair(
        self, method: Callable[Concatenate[Any, P], tuple[A, B]], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[Ref[A], Ref[B]]:
        """Start `collect`, the only method that returns a pair."""
        assert method_name(method, kwargs) == "collect"
        *shared, keep_state, unsaved, env_values = cast(tuple[Any, ...], args)
        return self.host.collect((self.number, keep_state, unsaved, env_values), tuple(shared))

    def close(self) -> None:
        """Release the player."""
        if not self._is_closed:
            self._is_closed = True
            self.on_close(self.host, self.number)


class HostGroup:
    """Group of the hosts of a run, with the places of its players.

    The group starts hosts until it has as many as the run wants. Those without room in the cluster remain pending,
    which makes an autoscaler add nodes; they end with the driver. Players are on hosts that are up, on all about
    equally many, or as many as the hosts' speeds permit. If there are as many hosts as players, each player has a host
    of its own and waits for a new one after a loss.

    Args:
        players: number of players.
        least: hosts that the run starts with.
        most: hosts that the group may have.
        make: starts a process of a name.
        on_wait: called with the number of a player and its host if the player waits for a host that isn't up yet.
        report: called with a message about a host.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        players: int,
        least: int,
        most: int,
        make: Callable[[str], HostHandle],
        on_wait: Callable[[int, HostClient], None] = lambda number, host: None,
        report: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start without hosts."""
        self.players, self.least, self.demand = players, least, Demand(least, most)
        self.make, self.on_wait, self.report, self.clock = make, on_wait, report, clock
        self.hosts: list[HostClient] = []
        self._planned: dict[int, HostClient] = {}  # places of players that are going to move
        self._failed_on: dict[int, HostClient] = {}  # last host on which a player failed
        self._made = self._given_up = 0
        self._rests_until = float("-inf")  # time from which players may move to balance speeds
        self._starts_after = float("-inf")  # time from which hosts may start, after one has ended before it was up
        self._is_new = True  # a host has come or gone since players were balanced

    @property
    def is_fixed(self) -> bool:
        """Return True if each player has a host of its own."""
        return self.least == self.players

    @property
    def up(self) -> list[HostClient]:
        """Return the hosts that respond."""
        return [host for host in self.hosts if host.is_up]

    @property
    def wanted(self) -> int:
        """Return the number of hosts that the run wants."""
        return self.demand.wanted

    def start(self) -> None:
        """Start the hosts."""
        self._fill()

    async def wait_for_least(self) -> None:
        """Wait until as many hosts are up as the run starts with.

        Raises:
            LostError: a host ended before it was up.
        """
        waiting = {host.node for host in self.hosts}
        while len(self.up) < self.least:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for node in done:
                node.result()

    # --------------------------------------------------------------------------------------------- players

    def make_player(self, number: int, incarnation: int) -> PlayerHandle:
        """Return the handle of a player on the host with the most room."""
        self._fill()
        planned = self._planned.pop(number, None)
        host = planned if planned is not None and planned.is_open else self._choose(number)
        self._failed_on.pop(number, None)
        host.players.add(number)
        if not host.is_up:
            self.on_wait(number, host)
        host.handle.call(HostInterface.assign, number, incarnation)
        return PlayerHandle(host, number, self._release)

    def _choose(self, number: int) -> HostClient:
        """Return the host for a player: one that is up, or else one that starts."""
        most = 1 if self.is_fixed else self.players
        free = [host for host in self.hosts if not host.leaves_because and len(host.players) < most]
        open_ones = [host for host in free if host.is_open]
        if not free:  # hosts of lost players that were not released yet occupy the places
            free = [self._start_host()]
        failed = self._failed_on.get(number)
        return min(open_ones or free, key=lambda host: (host is failed, self._load(host, len(host.players) + 1)))

    def _load(self, host: HostClient, players: int) -> float:
        """Return the seconds that a number of players would need for a fragment each."""
        known = [other.seconds for other in self.up if other.seconds is not None]
        usual = sum(known) / len(known) if known else 1.0
        return players * (host.seconds if host.seconds is not None else usual)

    def _release(self, host: HostClient, number: int) -> None:
        """Close a player; end its host if that is empty and leaves, or if the player failed."""
        host.players.discard(number)
        if host.failures:
            self._failed_on[number] = host
            self._give_up_if_failing(host)
        if host.is_lost or (not host.players and (host.leaves_because or host.failures)):
            self._end(host)
        else:
            host.handle.call(HostInterface.release, number)

    def _give_up_if_failing(self, host: HostClient) -> None:
        """Give up a host on which several players in a row have failed; its players move."""
        others = [other for other in self.hosts if other.is_open and other is not host]
        if host.failures < FAILURES or host.leaves_because or not others or self._given_up >= MOST_GIVEN_UP:
            return
        self._given_up += 1
        host.leaves_because = f"the environments on {host.name} fail"
        self.report(f"{host.name} on node {host.node.result()} is given up: its players failed {host.failures} times")

    # ----------------------------------------------------------------------------------------------- hosts

    def _fill(self) -> None:
        """Forget lost hosts, and start hosts until there are as many as wanted."""
        for host in [host for host in self.hosts if host.is_lost]:
            self._end(host)
            if error := host.why_not_up:
                self._starts_after = self.clock() + REST
                self.report(f"{host.name} ended before it was up: {error}; the next one starts in {REST:.0f} s")
        if self.clock() >= self._starts_after:
            while sum(not host.leaves_because for host in self.hosts) < self.wanted:
                self._start_host()

    def _give_back(self) -> None:
        """Give back the hosts that the run doesn't want: first those that aren't up, then those with few players."""
        staying = [host for host in self.hosts if not host.leaves_because]
        spare = sorted(staying, key=lambda host: (host.is_up, len(host.players)))[: max(0, len(staying) - self.wanted)]
        self.report(f"the trainers hardly wait for players: the run wants {self.wanted} processes for them")
        for host in spare:
            host.leaves_because = "the trainers don't wait for players"
            self._note_change()

    def _start_host(self) -> HostClient:
        """Start a host."""
        name = f"host:{self._made}"
        self._made += 1
        host = HostClient(name.replace(":", " "), self.make(name))
        host.node.add_done_callback(lambda _: self._note_change())
        self.hosts.append(host)
        return host

    def _end(self, host: HostClient) -> None:
        """End a host's process."""
        if host in self.hosts:
            self.hosts.remove(host)
            host.handle.close()
            self._note_change()

    def _note_change(self) -> None:
        """Note that a host has come or gone."""
        self._is_new = True

    def moves(self, draining: Collection[str], waited: float) -> dict[int, str]:
        """Return the players that have to move, with the reason. Each moves after its current fragment.

        Args:
            draining: ids of the nodes that are being drained.
            waited: seconds that the trainers have waited for players since the run began.
        """
        before, there = self.wanted, sum(host.is_open for host in self.hosts)
        if self.demand.update(self.clock(), waited, there) < before:
            self._give_back()
        elif self.wanted > before:
            self.report(f"the trainers wait for players: the run wants {self.wanted} processes for them")
        for host in self.up:
            if host.node.result() in draining and not host.leaves_because:
                host.leaves_because = "the node is being drained"
                self._note_change()
        self._fill()
        for host in [host for host in self.hosts if host.leaves_because and not host.players]:
            self._end(host)
        found = {number: host.leaves_because for host in self.up if host.leaves_because for number in host.players}
        if not self.is_fixed:
            found |= self._balance()
        return found

    def _balance(self) -> dict[int, str]:
        """Plan moves from hosts with more players to hosts with fewer; return them with the reason.

        A host that came or went is balanced at once. Differences of speed are balanced seldom.
        """
        if not self._is_new and self.clock() < self._rests_until:
            return {}
        gain, self._is_new = (1.0, False) if self._is_new else (GAIN, False)
        hosts = [host for host in self.hosts if host.is_open]
        self._planned = {number: host for number, host in self._planned.items() if host in hosts}
        staying = {host: sorted(host.players - self._planned.keys()) for host in hosts}
        coming = {host: sum(planned is host for planned in self._planned.values()) for host in hosts}
        found: dict[int, str] = {}
        while len(hosts) > 1:
            count = {host: len(staying[host]) + coming[host] for host in hosts}
            slowest = max(hosts, key=lambda host: self._load(host, count[host]))
            fastest = min(hosts, key=lambda host: self._load(host, count[host] + 1))
            after = self._load(fastest, count[fastest] + 1)
            if not staying[slowest] or after >= gain * self._load(slowest, count[slowest]):
                break
            number = staying[slowest].pop()
            self._planned[number], found[number] = fastest, f"{fastest.name} has more room"
            coming[fastest] += 1
        if found:
            self._rests_until = self.clock() + REST
        return found

    def close(self) -> None:
        """End all hosts."""
        for host in self.hosts:
            host.handle.close()
        self.hosts = []
