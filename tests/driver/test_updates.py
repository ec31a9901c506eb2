"""What becomes of a rollout that is lost before, or after, somebody has learned from it."""

import asyncio

import pytest

from sheeprl.actors.handle import DataLostError, LocalHandle, LostError
from sheeprl.actors.messages import UpdateInfo
from sheeprl.algos.args import OnPolicy
from sheeprl.driver.failures import FailureBudget
from sheeprl.driver.replay import Chunk
from sheeprl.driver.settings import Plan, WallClock
from sheeprl.driver.trainers import LearnerGroup
from sheeprl.driver.updates import UpdateScheduler
from sheeprl.metrics.counters import Counters, RunStats
from sheeprl.utils.errors import RunFailedError
from tests.helpers.simulation import RecordingReporter

DATA = OnPolicy(rollout_steps=4, batch_size=4, epochs=1)
LOST, GONE = LostError("the node died"), DataLostError("it was on that node")


class Script:
    """A trainer group that answers as it was told to: with an error, or with a note."""

    def __init__(self, *answers):
        self.answers, self.steps = list(answers), 0

    def update(self, steps, progress, order, *blocks):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        self.steps += steps
        return UpdateInfo(self.steps, {}, 0.0, 0.0, (answer,) if answer else ()), []

    def warm_up(self):
        pass


class Rollouts:
    """A replay that always has one."""

    is_ready, batch_bytes = True, 0

    def request(self, first, steps, progress):
        return Chunk(first, steps, progress, [])

    async def wait_for(self, chunk):
        return True


def updating(*groups):
    """With the groups that there are, one after the other."""
    first, *others = [LocalHandle(Script(*answers)) for answers in groups]

    async def make(incarnation):
        return others[incarnation - 1]

    plan = Plan(data=DATA, total_steps=100, players=1, fragment_rows=4, max_staleness=0)
    clock, reporter = WallClock(), RecordingReporter()
    failures = FailureBudget(3, 100.0, clock.time, reporter.message)
    trainers = LearnerGroup(first, make, keeps_updates=True)
    stats = RunStats(Counters(), clock.time())
    arguments = (plan, stats, Rollouts(), trainers, reporter, failures, clock, asyncio.Event(), lambda: None)
    return UpdateScheduler(*arguments)


def test_a_rollout_that_was_lost_on_its_way_is_not_asked_for_again():
    one = updating([GONE, LOST], [""])

    async def run():
        assert not await one.run_due_updates(4)  # so that another one is played
        assert not one.trainers.kept
        assert await one.run_due_updates(4)

    asyncio.run(run())
    assert one.counters.gradient_steps == 1


def test_a_rollout_that_was_lost_together_with_the_trainers_but_not_learned_from_is_played_again():
    one = updating(["", LOST], ["", GONE, ""])

    async def run():
        assert await one.run_due_updates(4)
        assert not await one.run_due_updates(4)
        assert len(one.trainers.kept) == 1 and not one.trainers.lacks_rollout
        assert await one.run_due_updates(4)

    asyncio.run(run())
    assert one.counters.gradient_steps == 2


def test_a_rollout_that_was_learned_from_cannot_be_done_without():
    one = updating(["", LOST], [GONE, ""])

    async def run():
        assert await one.run_due_updates(4)
        await one.run_due_updates(4)

    with pytest.raises(RunFailedError, match="a rollout was lost together with the trainers"):
        asyncio.run(run())
    assert one.trainers.lacks_rollout


def test_what_a_new_group_says_of_old_updates_is_told():
    one = updating(["", LOST], ["gradient steps aren't compiled: no compiler", ""])

    async def run():
        assert await one.run_due_updates(4)
        assert await one.run_due_updates(4)

    asyncio.run(run())
    assert ("info", "gradient steps aren't compiled: no compiler") in one.reporter.messages
    assert one.counters.gradient_steps == 2


@pytest.mark.parametrize("warms_up", [False, True])
def test_only_a_warm_up_counts_as_compiling(warms_up):
    one = updating([""])
    one.trainers.warms_up = warms_up

    async def run():
        one.trainers.warm_up()
        await one.run_due_updates(4)

    asyncio.run(run())
    assert (one.stats.window.compiling > 0) == warms_up
