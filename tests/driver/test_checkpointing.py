"""Test when checkpoints and snapshots are due, by a simulated clock."""

import asyncio
from types import SimpleNamespace

import pytest

from sheeprl.driver.checkpointing import CheckpointScheduler
from sheeprl.run import CHECKPOINT_REST, MOST_STORED_UPDATES, SNAPSHOT_REST, Run


class Store:
    """Takes some seconds for a checkpoint.

    Args:
        now: the clock.
        seconds: duration of a checkpoint.
    """

    keeps_buffer, newest_buffer = False, None

    def __init__(self, now, seconds):
        """Store the clock."""
        self.now, self.seconds = now, seconds

    def begin(self, policy_steps):
        """Return a folder."""
        return f"step_{policy_steps}"

    async def finish(self, *parts):
        """Advance the clock."""
        self.now[0] += self.seconds


@pytest.mark.parametrize(("seconds", "rests"), [(0.5, 0.0), (6.0, 60.0)])
def test_a_long_checkpoint_is_followed_by_a_rest(seconds, rests):
    """After a checkpoint of 6 s there is none for 60 s, then the postponed one is due; a short one delays nothing."""

    async def snapshot():
        """Return a snapshot."""
        return SimpleNamespace(gradient_steps=1)

    async def check():
        """Write a checkpoint, then ask when the next one is due."""
        now = [100.0]
        trainers = SimpleNamespace(rollout_lost=False, take_snapshot=snapshot)
        counters = SimpleNamespace(wall_time=0.0, policy_steps=1000)
        state = {"counters": {"policy_steps": 1000}}
        window = SimpleNamespace(checkpoint_stall=0.0)
        stats = SimpleNamespace(counters=counters, window=window, state_dict=lambda now: state)
        players = SimpleNamespace(saved_states={})
        scheduler = CheckpointScheduler(Store(now, seconds), stats, players, None, trainers, lambda: now[0])
        scheduler.rest = CHECKPOINT_REST
        await scheduler.write(while_playing=True)
        assert scheduler.is_resting == bool(rests)
        scheduler.postpone()
        assert not rests or not scheduler.is_due(5, 6)
        now[0] += rests + 0.1
        assert not scheduler.is_resting
        assert not scheduler.is_due(5, 6)  # the next rounds return the players' states
        assert scheduler.is_due(6, 7)

    asyncio.run(check())


def test_a_snapshot_that_took_long_is_followed_by_a_rest():
    """The next snapshot begins after twenty times the duration, or when too many rollouts wait for one."""

    async def check():
        """Take snapshots of 0.5 s."""
        now, taken = [10.0], []

        def take_snapshot():
            """Return a future of a snapshot."""
            taken.append(asyncio.get_running_loop().create_future())
            return taken[-1]

        run = SimpleNamespace(
            clock=SimpleNamespace(time=lambda: now[0]),
            next_snapshot=float("-inf"),
            trainers=SimpleNamespace(take_snapshot=take_snapshot, stored_updates=[]),
        )
        Run.take_snapshot(run)
        now[0] += 0.5
        taken[0].set_result(None)
        await asyncio.sleep(0)
        assert run.next_snapshot == 10.5 + SNAPSHOT_REST * 0.5
        Run.take_snapshot(run)
        assert len(taken) == 1
        run.trainers.stored_updates = [None] * MOST_STORED_UPDATES
        Run.take_snapshot(run)
        run.trainers.stored_updates, now[0] = [], run.next_snapshot
        Run.take_snapshot(run)
        assert len(taken) == 3

    asyncio.run(check())
