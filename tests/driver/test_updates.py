"""Test the loss of a rollout before and after the trainers use it."""

import asyncio

import pytest

from sheeprl.actors.handle import DataLostError, LocalHandle, LostError
from sheeprl.actors.messages import UpdateInfo
from sheeprl.algos.args import OnPolicy
from sheeprl.driver.clock import WallClock
from sheeprl.driver.failures import FailureBudget
from sheeprl.driver.replay import Chunk
from sheeprl.driver.stopping import Stopping
from sheeprl.driver.trainers import LearnerGroup
from sheeprl.driver.updates import UpdateScheduler
from sheeprl.metrics.counters import Counters, RunStats
from sheeprl.utils.errors import RunFailedError
from tests.helpers.driver_config import driver_config
from tests.helpers.simulation import RecordingReporter

DATA = OnPolicy(rollout_steps=4, batch_size=4, epochs=1)
LOST, GONE = LostError("the node died"), DataLostError("it was on that node")


class Script:
    """Fake trainer group that returns scripted results: errors or notes."""

    def __init__(self, *answers):
        """Store the results."""
        self.answers, self.steps = list(answers), 0

    def update(self, steps, progress, order, *blocks):
        """Return the next result."""
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        self.steps += steps
        return UpdateInfo(self.steps, {}, 0.0, 0.0, (answer,) if answer else ()), []

    def warm_up(self):
        """Do nothing."""
        pass


class Rollouts:
    """Fake replay that always has a rollout."""

    is_ready, batch_bytes = True, 0

    def request(self, first, steps, progress):
        """Return a chunk."""
        return Chunk(first, steps, progress, [])

    async def wait_for(self, chunk):
        """Return True."""
        return True


def make_scheduler(*groups):
    """Return a scheduler whose trainer groups replace each other in this order."""
    first, *others = [LocalHandle(Script(*answers)) for answers in groups]

    async def make(incarnation):
        """Return the next group."""
        return others[incarnation - 1]

    config = driver_config(DATA, total_steps=100, players=1, fragment_rows=4, max_staleness=0)
    clock, reporter = WallClock(), RecordingReporter()
    failures = FailureBudget(3, 100.0, clock.time, reporter.message)
    trainers = LearnerGroup(first, make, keeps_updates=True)
    stats = RunStats(Counters(), clock.time())
    arguments = (config, stats, Rollouts(), trainers, reporter, failures, clock, Stopping(clock), lambda: None)
    return UpdateScheduler(*arguments)


def test_a_rollout_lost_before_its_use_is_not_stored():
    """A rollout that is lost before its use isn't stored for a rebuild."""
    one = make_scheduler([GONE, LOST], [""])

    async def run():
        """Warm up and run the due updates."""
        assert not await one.run_due_updates(4)  # the driver then collects another one
        assert not one.trainers.stored_updates
        assert await one.run_due_updates(4)

    asyncio.run(run())
    assert one.counters.gradient_steps == 1


def test_an_unused_rollout_lost_with_the_trainers_is_collected_again():
    """A rollout that is lost unused together with the trainers is collected again."""
    one = make_scheduler(["", LOST], ["", GONE, ""])

    async def run():
        """Warm up and run the due updates."""
        assert await one.run_due_updates(4)
        assert not await one.run_due_updates(4)
        assert len(one.trainers.stored_updates) == 1 and not one.trainers.rollout_lost
        assert await one.run_due_updates(4)

    asyncio.run(run())
    assert one.counters.gradient_steps == 2


def test_a_used_rollout_lost_with_the_trainers_ends_the_run():
    """A used rollout that is lost with the trainers ends the run."""
    one = make_scheduler(["", LOST], [GONE, ""])

    async def run():
        """Warm up and run the due updates."""
        assert await one.run_due_updates(4)
        await one.run_due_updates(4)

    with pytest.raises(RunFailedError, match="a rollout was lost together with the trainers"):
        asyncio.run(run())
    assert one.trainers.rollout_lost


def test_notes_of_repeated_updates_are_reported():
    """Notes of repeated updates are reported."""
    one = make_scheduler(["", LOST], ["gradient steps aren't compiled: no compiler", ""])

    async def run():
        """Warm up and run the due updates."""
        assert await one.run_due_updates(4)
        assert await one.run_due_updates(4)

    asyncio.run(run())
    assert ("info", "gradient steps aren't compiled: no compiler") in one.reporter.messages
    assert one.counters.gradient_steps == 2


@pytest.mark.parametrize("warms_up", [False, True])
def test_only_a_warm_up_counts_as_compiling(warms_up):
    """Only the time of a warm-up counts as compile time."""
    one = make_scheduler([""])
    one.trainers.warms_up = warms_up

    async def run():
        """Warm up and run the due updates."""
        one.trainers.warm_up()
        await one.run_due_updates(4)

    asyncio.run(run())
    assert (one.stats.window.compiling > 0) == warms_up
