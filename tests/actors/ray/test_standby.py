"""Players' processes that are kept ready."""

import asyncio
import os

import pytest

from sheeprl.actors.handle import LostError
from sheeprl.actors.ray import standby
from sheeprl.actors.ray.standby import StandbyPool


class Process:
    """Stands for a player's process.

    Args:
        node: where it is.
    """

    def __init__(self, node="a"):
        self.node, self.dead, self.closed = node, False, False

    def call(self, method):
        assert method.__name__ == "node"

        async def answer():
            if self.dead:
                raise LostError("killed")
            return self.node

        return answer()

    def close(self):
        self.closed = True


class Cluster:
    """Makes processes, as long as it has room."""

    def __init__(self, room=100):
        self.room, self.made, self.leaving = room, [], set()

    def make(self, in_reserve):
        self.made.append(Process())
        self.made[-1].in_reserve = in_reserve
        return self.made[-1]

    def has_room(self):
        return len(self.made) < self.room


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(standby, "LOOK_AFTER", 0.001)


def test_none_is_started_before_one_was_taken():
    assert asyncio.run(made_after(takes=0)) == 0


def test_one_is_ready_after_the_first_was_taken():
    assert asyncio.run(made_after(takes=1)) == 2


def test_none_is_kept_where_none_is_wanted():
    assert asyncio.run(made_after(takes=1, number=0)) == 1


def test_none_is_asked_for_without_room():
    assert asyncio.run(made_after(takes=1, room=1)) == 1


async def made_after(takes, number=1, room=100):
    cluster = Cluster(room)
    kept = StandbyPool(number, cluster.make, cluster.has_room, lambda: cluster.leaving)
    for _ in range(takes):
        kept.take()
    await asyncio.sleep(0.05)
    return len(cluster.made)


def test_what_is_ready_is_taken_once_and_another_made():
    async def check():
        cluster = Cluster()
        kept = StandbyPool(2, cluster.make, cluster.has_room, lambda: cluster.leaving)
        first = kept.take()
        await until(lambda: len(kept) == 2)
        second, third = kept.take(), kept.take()
        assert [first, second, third] == cluster.made[:3]
        assert [process.in_reserve for process in cluster.made[:3]] == [False, True, True]
        await until(lambda: len(kept) == 2)
        assert len(cluster.made) == 5

    asyncio.run(check())


async def one_ready():
    """A cluster, spares of which one is ready, and what was taken before."""
    cluster = Cluster()
    kept = StandbyPool(1, cluster.make, cluster.has_room, lambda: cluster.leaving)
    taken = kept.take()
    await until(lambda: len(kept) == 1)
    return cluster, kept, taken


def test_a_dead_one_is_found_out_and_replaced():
    async def check():
        cluster, kept, _ = await one_ready()
        cluster.made[1].dead = True
        await until(lambda: len(cluster.made) == 3 and len(kept) == 1)
        assert kept.take() is cluster.made[2]

    asyncio.run(check())


def test_one_whose_node_goes_away_is_not_taken():
    async def check():
        cluster, kept, _ = await one_ready()
        cluster.leaving = {"a"}
        assert kept.take() is cluster.made[-1] is not cluster.made[1]
        assert cluster.made[1].closed

    asyncio.run(check())


def test_those_that_are_left_are_ended():
    async def check():
        cluster, kept, taken = await one_ready()
        kept.close()
        assert [process.closed for process in (taken, cluster.made[1])] == [False, True]

    asyncio.run(check())


async def until(condition):
    """Give the keeping time to come so far."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it didn't come so far")


def test_giving_way_does_it_elsewhere_and_tells_what_was_raised():
    where = []

    def look():
        where.append(os.sched_getscheduler(0) if hasattr(os, "SCHED_IDLE") else None)

    standby.run_at_idle_priority(look)
    look()
    assert where == [os.SCHED_IDLE, os.SCHED_OTHER] if hasattr(os, "SCHED_IDLE") else where == [None, None]
    with pytest.raises(ZeroDivisionError):
        standby.run_at_idle_priority(lambda: 1 // 0)
