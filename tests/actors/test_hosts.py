"""Test the places of players on hosts, with hosts in this process."""

import asyncio
import random
from collections import Counter
from itertools import pairwise

import pytest

from sheeprl.actors.handle import LocalHandle, LocalRef, LostError, later
from sheeprl.actors.host import Host
from sheeprl.actors.hosts import HostGroup
from sheeprl.actors.interfaces import PlayerInterface
from sheeprl.actors.messages import Fragment, FragmentInfo


class UnpicklableError(Exception):
    """Exception that can't be passed to another process."""

    def __reduce__(self):
        """Raise."""
        raise TypeError("not even this")


class Player:
    """Player that returns its number, or raises.

    Args:
        number: number of the player.
        incarnation: incarnation of the player.
        error: exception that `collect` raises; None for none.
    """

    def __init__(self, number, incarnation, error=None):
        """Store the arguments."""
        self.number, self.incarnation, self.error, self.closed = number, incarnation, error, False

    def collect(self, rows, weights, version, mode, progress, keep_state, unsaved, env_values):
        """Return an empty fragment, or raise."""
        if self.error:
            raise self.error
        state = b"state" if keep_state else None
        return FragmentInfo(version, rows, rows, (), (), 0.5, state), Fragment(self.number, self.incarnation, 0, {})

    def state(self):
        """Return the number."""
        return str(self.number).encode()

    def close(self):
        """Note the end."""
        self.closed = True


class Process(LocalHandle):
    """Handle of a host in this process, which counts calls and can die."""

    def __init__(self, name, errors):
        """Make a host whose players of some numbers raise."""
        super().__init__(Host(lambda number, life: Player(number, life, errors.get((name, number)))))
        self.target.node = lambda: f"node of {name}"
        self.calls, self.dead, self.closed = [], False, False

    def call(self, method, *args):
        """Count and run a call."""
        self.calls.append(method.__name__)
        ref = super().call(method, *args)
        if self.dead:
            ref.value, ref.error = None, LostError("it died")
        return ref

    def close(self):
        """Note the end."""
        self.closed = True
        super().close()


class Cluster:
    """Group of hosts in this process."""

    def __init__(self, players, least, most, errors=None):
        """Start the hosts."""
        self.processes, self.reports, self.waits, self.now = [], [], [], 0.0
        self.errors = errors or {}
        self.group = HostGroup(
            players,
            least,
            most,
            self.make,
            lambda number, host: self.waits.append((number, host.name)),
            self.reports.append,
            lambda: self.now,
        )
        self.group.start()

    def make(self, name):
        """Make a process."""
        self.processes.append(Process(name, self.errors))
        return self.processes[-1]

    async def all_up(self):
        """Wait until all hosts are up."""
        await asyncio.gather(*(host.node for host in self.group.hosts), return_exceptions=True)

    def counts(self):
        """Return the number of players of each host."""
        return [len(host.players) for host in self.group.hosts]


ARGS = (4, None, 7, "explore", 0.5)


def collect(player, keep_state=False):
    """Call `collect` of a player."""
    return player.call_pair(PlayerInterface.collect, *ARGS, keep_state, None, None)


def test_players_of_a_host_share_a_call_and_fail_alone():
    """Calls in one turn of the loop are one call of the host; a player's exception reaches its caller only."""

    async def check():
        """Collect twice."""
        cluster = Cluster(3, 1, 1, {("host:0", 1): UnpicklableError("gone")})
        await cluster.all_up()
        players = [cluster.group.make_player(number, 2) for number in range(3)]
        pairs = [collect(player, keep_state=player is players[2]) for player in players]
        first, failed, last = await asyncio.gather(*(info for info, _ in pairs), return_exceptions=True)
        assert (first.version, first.state, last.state) == (7, None, b"state")
        assert isinstance(failed, RuntimeError) and str(failed).startswith("UnpicklableError: gone")
        assert [(await pairs[place][1]).player for place in (0, 2)] == [0, 2]
        assert cluster.processes[0].calls.count("collect") == 1
        other = LocalHandle([])
        assert await other.call(list.append, later(pairs[2][1])) is None
        assert [fragment.incarnation for fragment in other.target] == [2]

    asyncio.run(check())


def test_a_call_to_a_player_runs_after_its_earlier_ones():
    """A call flushes those of the same player, and overtakes those of the others."""

    async def check():
        """Mix calls."""
        cluster = Cluster(2, 1, 1)
        await cluster.all_up()
        one, two = (cluster.group.make_player(number, 0) for number in range(2))
        pair = collect(one)
        assert await two.call(PlayerInterface.state) == b"1"
        again = collect(one)
        one.call(PlayerInterface.state)
        await asyncio.gather(pair[0], again[0])
        assert cluster.processes[0].calls[3:] == ["call_player", "collect", "collect", "call_player"]

    asyncio.run(check())


def test_players_are_spread_and_move_to_new_hosts():
    """Hosts have about equally many players; those of a drained one move, and it ends without players."""

    async def check():
        """Drain a host."""
        cluster = Cluster(6, 2, 3)
        await cluster.all_up()
        players = {number: cluster.group.make_player(number, 0) for number in range(6)}
        assert cluster.counts() == [2, 2, 2] and not cluster.waits
        assert cluster.group.moves((), 0.0) == {}
        moves = cluster.group.moves({"node of host:1"}, 0.0)
        assert moves == dict.fromkeys([1, 4], "the node is being drained")
        await cluster.all_up()
        for number in moves:
            players[number].close()
            cluster.group.make_player(number, 0)
        assert cluster.processes[1].closed
        assert cluster.group.moves((), 0.0) == {} and cluster.counts() == [2, 2, 2]

    asyncio.run(check())


def test_a_lost_host_is_replaced_and_its_players_do_not_wait():
    """Players of a lost host go to the others, and some move to its successor once it is up."""

    async def check():
        """Lose a host."""
        cluster = Cluster(4, 2, 2)
        await cluster.all_up()
        players = {number: cluster.group.make_player(number, 0) for number in range(4)}
        cluster.processes[0].dead = True
        for number in (0, 2):
            with pytest.raises(LostError):
                await collect(players[number])[0]
            players[number].close()
            cluster.group.make_player(number, 1)
        assert cluster.counts() == [3, 1] and not cluster.waits
        assert cluster.group.moves((), 0.0) == {3: "host 2 has more room"}
        assert cluster.group.moves((), 0.0) == {}  # it is planned already

    asyncio.run(check())


def test_a_player_with_a_host_of_its_own_waits_for_the_next_one():
    """With as many hosts as players, no host gets a second player."""

    async def check():
        """Lose a host."""
        cluster = Cluster(2, 2, 2)
        await cluster.all_up()
        players = [cluster.group.make_player(number, 0) for number in range(2)]
        cluster.processes[1].dead = True
        with pytest.raises(LostError):
            await players[1].call(PlayerInterface.state)
        players[1].close()
        cluster.group.make_player(1, 1)
        assert cluster.counts() == [1, 1] and cluster.waits == [(1, "host 2")] and cluster.processes[1].closed

    asyncio.run(check())


def test_a_host_whose_players_fail_is_given_up():
    """A failed player starts on another host; a host where several in a row fail loses its other players too."""

    async def check():
        """Report failures of players on a host."""
        cluster = Cluster(6, 2, 2, {("host:0", number): OSError("no display") for number in range(6)})
        await cluster.all_up()
        players = {number: cluster.group.make_player(number, 0) for number in range(6)}
        for number in (0, 2):
            with pytest.raises(OSError, match="no display"):
                await collect(players[number])[0]
            players[number].close()
            cluster.group.make_player(number, 1)
        assert cluster.counts()[:2] == [1, 5]
        assert cluster.reports == ["host 0 on node node of host:0 is given up: its players failed 2 times"]
        assert cluster.group.moves((), 0.0)[4] == "the environments on host 0 fail"

    asyncio.run(check())


def test_differences_of_speed_are_balanced_seldom():
    """A host that is twice as slow gets fewer players, once."""

    async def check():
        """Measure two hosts."""
        cluster = Cluster(8, 2, 2)
        await cluster.all_up()
        for number in range(8):
            cluster.group.make_player(number, 0)
        assert cluster.group.moves((), 0.0) == {}
        slow, fast = cluster.group.hosts
        for _ in range(50):
            slow.note(2.0), fast.note(1.0)
        assert list(cluster.group.moves((), 0.0)) == [6]
        fast.note(0.1)
        cluster.now = 30.0
        assert cluster.group.moves((), 0.0) == {}

    asyncio.run(check())


def test_hosts_that_end_before_they_are_up_start_seldom():
    """A process that can't start is reported and tried again a minute later, while its players are elsewhere."""

    async def check():
        """Fail to start the second host."""
        cluster = Cluster(4, 1, 2)
        cluster.group.hosts[1].node.cancel()
        cluster.group.hosts[1].node = asyncio.get_running_loop().create_future()
        cluster.group.hosts[1].node.set_exception(LostError("no module numpy"))
        await asyncio.gather(*(host.node for host in cluster.group.hosts), return_exceptions=True)
        for number in range(4):
            cluster.group.make_player(number, 0)
        assert cluster.counts() == [4]
        report = "host 1 ended before it was up: no module numpy; the next one starts in 60 s"
        assert cluster.reports == [report]
        cluster.now = 59.0
        cluster.group.moves((), 0.0)
        assert len(cluster.processes) == 2
        cluster.now = 61.0
        cluster.group.moves((), 0.0)
        assert len(cluster.processes) == 3

    asyncio.run(check())


# ------------------------------------------------------------------------------------------------------- a day


class SpotHost:
    """Handle of a host that is pending until a node has room for it, and that goes with its node."""

    def __init__(self, name):
        """Request a node."""
        self.name, self.node = name, asyncio.get_running_loop().create_future()

    def call(self, method, *args):
        """Return the node once it is there."""
        return self.node if method.__name__ == "node" else LocalRef(None)

    def close(self):
        """Give the node back."""
        self.node.cancel()


class SpotMarket:
    """A run on spot nodes with one host each, whose number follows a price.

    Args:
        players: number of players.
        least: fewest hosts; so many nodes are always there.
        most: most hosts.
        seed: seed of prices and losses.
    """

    def __init__(self, players, least, most, seed):
        """Place the players on the first hosts."""
        self.rng, self.least, self.most, self.room = random.Random(seed), least, most, most
        self.now = self.waited = 0.0
        self.happened = Counter()
        self.group = HostGroup(players, least, most, SpotHost, clock=lambda: self.now)
        self.wanted = [self.group.wanted]
        self.group.start()
        self.players = {number: self.group.make_player(number, 0) for number in range(players)}

    def move(self, numbers):
        """Move players to other hosts."""
        for number in numbers:
            self.players[number].close()
            self.players[number] = self.group.make_player(number, 0)

    async def pass_time(self, seconds, needed):
        """Advance the time while `needed` hosts are enough for the trainers."""
        for _ in range(int(seconds) // 20):
            self.now += 20.0
            self.waited += 20.0 * max(0.0, 1.0 - len(self.group.up) / needed)
            moves = self.group.moves((), self.waited)
            self.happened["moved"] += len(moves)
            self.move(moves)
            if self.group.wanted != self.wanted[-1]:
                self.wanted.append(self.group.wanted)
            if self.now % 60 == 0:
                self.change_nodes()
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    def change_nodes(self):
        """Change the price each hour; take nodes whose price is too high, and bring a requested one."""
        if self.now % 3600 == 0:
            self.room = self.rng.choice([4, 8, 12, 16])
        for host in self.rng.sample(self.group.up, max(0, len(self.group.up) - self.room)):
            host.has_died()
            self.happened["lost"] += 1
            self.move(sorted(host.players))
        pending = [host.handle.node for host in self.group.hosts if not host.handle.node.done()]
        if pending and len(self.group.up) < self.room:
            pending[0].set_result(f"node {self.now}")
            self.happened["came"] += 1


def test_a_fleet_does_not_flap_over_a_day():
    """Over a day of spot prices, in which the trainers are the bottleneck for hours, the fleet changes seldom."""

    async def day():
        """Pass a day, with another bottleneck every three hours."""
        market = SpotMarket(players=64, least=2, most=16, seed=0)
        for part in range(8):
            await market.pass_time(3 * 3600, needed=(3, 40)[part % 2])
            assert market.group.wanted <= 4 if part % 2 == 0 else market.group.wanted == 16
        return market

    market = asyncio.run(day())
    steps = [later - earlier for earlier, later in pairwise(market.wanted)]
    turns = sum(one * other < 0 for one, other in pairwise(steps))
    assert 7 <= turns <= 24  # one for each new bottleneck at least
    grown = sum(step for step in steps if step > 0)
    assert grown <= 5 * market.most  # the day has four growths to all hosts
    assert market.group._made == market.most + grown + market.happened["lost"]  # no host was made in vain
    assert market.happened["lost"] > 24
