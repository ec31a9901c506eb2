"""Test the reports about actors that find no room, and their limit."""

import asyncio

import pytest

from sheeprl.actors.ray.waiting import ClusterError, Waits


class Pending:
    """Result that never arrives."""

    def __await__(self):
        """Wait forever."""
        return asyncio.get_running_loop().create_future().__await__()


def waits(now, timeout=100.0):
    """Return waits with a simulated clock, and the list of their reports."""
    reports = []

    async def describe(name):
        """Return a cause."""
        return f"no node for {name}"

    made = Waits(timeout, describe, clock=lambda: now[0])
    made.report = reports.append
    return made, reports


def test_a_pending_actor_is_reported_repeatedly_and_then_an_error():
    """A wait is reported after 3 s, then every 30 s, and is an error at the timeout."""

    async def check():
        """Advance the clock."""
        now = [0.0]
        pending, reports = waits(now)
        pending.add("player 3", Pending())
        for now[0] in (1.0, 4.0, 20.0, 35.0):
            await pending.check()
        assert reports == [
            "player 3 waits for room in the cluster: no node for player 3; giving up in 96 s (ray.wait_timeout)",
            "player 3 waits for room in the cluster: no node for player 3; giving up in 65 s (ray.wait_timeout)",
        ]
        now[0] = 100.0
        with pytest.raises(ClusterError, match=r"^player 3 found no room within 100 s \(ray\.wait_timeout\): no node"):
            await pending.check()

    asyncio.run(check())


def test_an_actor_that_is_up_is_not_reported():
    """An actor that has answered isn't reported, also if it failed."""

    async def check():
        """Advance the clock after the answers."""
        now = [0.0]
        pending, reports = waits(now)

        async def fail():
            """Raise an error."""
            raise RuntimeError("lost")

        pending.add("player 1", asyncio.sleep(0))
        pending.add("player 2", fail())
        await asyncio.sleep(0.01)
        now[0] = 1000.0
        await pending.check()
        assert reports == []

    asyncio.run(check())


def test_waiting_for_a_group_has_the_same_limit():
    """`wait_for` returns a result, and raises an error at the timeout."""

    async def check():
        """Wait for a result and for a pending one."""
        made, _ = waits([0.0])
        assert await made.wait_for("the run", asyncio.sleep(0, "up")) == "up"

        async def describe(name):
            """Return no cause."""
            return ""

        with pytest.raises(ClusterError, match=r"^the run has room .* actors didn't start within 0\.05 s"):
            await Waits(0.05, describe).wait_for("the run", Pending())

    asyncio.run(check())


def test_an_actor_with_room_is_reported_as_starting():
    """An actor that has room, but isn't up after 30 s, is reported as starting, not as waiting for room."""

    async def check():
        """Advance the clock."""
        now, reports = [0.0], []

        async def describe(name):
            """Return no cause."""
            return ""

        pending = Waits(100.0, describe, clock=lambda: now[0])
        pending.report = reports.append
        pending.add("the run", Pending())
        for now[0] in (4.0, 35.0):
            await pending.check()
        (report,) = reports
        assert report.startswith("the run is still starting") and "giving up in 65 s (ray.wait_timeout)" in report

    asyncio.run(check())
