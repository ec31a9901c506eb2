"""Test how collection ends."""

import asyncio
from types import SimpleNamespace

import pytest

from sheeprl.driver.collection import Collector
from sheeprl.utils.errors import RunFailedError


def test_a_failed_watch_of_the_nodes_ends_the_collection():
    """An actor that finds no node ends the run at once, although a round waits for that actor."""

    async def forever(*args):
        """Wait forever."""
        await asyncio.Event().wait()

    async def fail(waited):
        """Fail as the cluster does."""
        raise RuntimeError("player 1 found no room")

    async def check():
        """Collect while a round waits."""
        config = SimpleNamespace(num_players=2)
        collector = SimpleNamespace(
            config=config,
            _collect_rounds=forever,
            find_moves=fail,
            trainers_waited=0.0,
            players=SimpleNamespace(leaving=set()),
        )
        watching = asyncio.ensure_future(Collector.watch_moves(collector))
        await Collector.collect_during(collector, forever(), watching)

    with pytest.raises(RunFailedError, match="the cluster failed: player 1 found no room"):
        asyncio.run(asyncio.wait_for(check(), 10))
