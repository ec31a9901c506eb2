"""Test the pool of standby processes."""

import asyncio

import pytest

from sheeprl.actors.handle import LostError
from sheeprl.actors.ray import standby
from sheeprl.actors.ray.standby import StandbyPool


class Process:
    """Fake process of a player.

    Args:
        node: node of the process.
    """

    def __init__(self, node="a"):
        """Start alive."""
        self.node, self.dead, self.closed = node, False, False

    def call(self, method):
        """Return the node."""
        assert method.__name__ == "node"

        async def answer():
            """Return the node, or raise if the process is dead."""
            if self.dead:
                raise LostError("killed")
            return self.node

        return answer()

    def close(self):
        """Mark the process as closed."""
        self.closed = True


class Cluster:
    """Fake cluster that makes processes while it has room."""

    def __init__(self, room=100):
        """Start without processes."""
        self.room, self.made, self.leaving = room, [], set()

    def make(self, name):
        """Make a process."""
        self.made.append(Process())
        return self.made[-1]

    async def has_room(self):
        """Return whether there is room for a process."""
        return len(self.made) < self.room


@pytest.fixture(autouse=True)
def short_interval(monkeypatch):
    """Check the pool every millisecond."""
    monkeypatch.setattr(standby, "LOOK_AFTER", 0.001)


def test_the_pool_is_empty_at_first():
    """The pool is empty until the first player is taken."""
    assert asyncio.run(made_after(takes=0)) == 0


def test_one_is_ready_after_the_first_was_taken():
    """One process is ready after the first was taken."""
    assert asyncio.run(made_after(takes=1)) == 2


def test_a_pool_of_0_stays_empty():
    """A pool of 0 processes stays empty."""
    assert asyncio.run(made_after(takes=1, number=0)) == 1


def test_no_process_is_started_without_room():
    """The pool starts no process without room."""
    assert asyncio.run(made_after(takes=1, room=1)) == 1


async def made_after(takes, number=1, room=100):
    """Return the number of processes after some were taken."""
    cluster = Cluster(room)
    pool = StandbyPool(number, cluster.make, cluster.has_room, lambda: cluster.leaving)
    for _ in range(takes):
        pool.take("player")
    await asyncio.sleep(0.05)
    return len(cluster.made)


def test_a_ready_process_is_taken_once_and_replaced():
    """A ready process is taken once and replaced."""

    async def check():
        """Take processes."""
        cluster = Cluster()
        pool = StandbyPool(2, cluster.make, cluster.has_room, lambda: cluster.leaving)
        first = pool.take("player")
        await until(lambda: len(pool) == 2)
        second, third = pool.take("player"), pool.take("player")
        assert [first, second, third] == cluster.made[:3]
        await until(lambda: len(pool) == 2)
        assert len(cluster.made) == 5

    asyncio.run(check())


async def one_ready():
    """Return a cluster, a pool with one ready process, and the process taken before."""
    cluster = Cluster()
    pool = StandbyPool(1, cluster.make, cluster.has_room, lambda: cluster.leaving)
    taken = pool.take("player")
    await until(lambda: len(pool) == 1)
    return cluster, pool, taken


def test_a_dead_process_is_replaced():
    """A dead process is replaced."""

    async def check():
        """Kill the ready process."""
        cluster, pool, _ = await one_ready()
        cluster.made[1].dead = True
        await until(lambda: len(cluster.made) == 3 and len(pool) == 1)
        assert pool.take("player") is cluster.made[2]

    asyncio.run(check())


def test_a_process_on_a_draining_node_is_not_taken():
    """A process on a draining node is not taken."""

    async def check():
        """Drain the node."""
        cluster, pool, _ = await one_ready()
        cluster.leaving = {"a"}
        assert pool.take("player") is cluster.made[-1] is not cluster.made[1]
        assert cluster.made[1].closed

    asyncio.run(check())


def test_close_ends_the_ready_processes():
    """`close` ends the ready processes."""

    async def check():
        """Close the pool."""
        cluster, pool, taken = await one_ready()
        pool.close()
        assert [process.closed for process in (taken, cluster.made[1])] == [False, True]

    asyncio.run(check())


async def until(condition):
    """Wait until a condition is true."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("the condition stayed false")
