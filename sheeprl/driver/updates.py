"""Has gradient steps taken: how many are owed, what they are sampled from, and what becomes of them.

Samples and updates are requested ahead, so that the learner never waits for the next chunk. Trainers that are lost on
the way are built again from their last snapshot and take the gradient steps since then once more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from sheeprl.actors.handle import AllRanks, DataLostError, Handle, LostError, Ref
from sheeprl.buffer.storage import Rows
from sheeprl.driver.failures import FailureBudget
from sheeprl.driver.replay import Chunk, ReplayClient
from sheeprl.driver.settings import Clock, Plan
from sheeprl.driver.trainers import LearnerGroup, Update
from sheeprl.metrics.counters import RunStats
from sheeprl.metrics.reporter import Reporter
from sheeprl.utils.errors import RunFailedError, one_line, require

CHUNK_STEPS = 64  # gradient steps per call to the learner: enough to make the call cheap, few enough to stop soon
CHUNK_BYTES = 64 * 2**20  # and no more than their batches may take, however large a sample is


class UpdateScheduler:
    """Runs the gradient steps that are due.

    Args:
        plan: settings of the run.
        stats: counters of the run.
        replay: client of the replay buffer.
        trainers: the trainer group.
        reporter: receives messages.
        failures: counts failures per worker.
        clock: source of time.
        stopping: event that is set once the run must stop.
        show_progress: called after every update.
    """

    def __init__(
        self,
        plan: Plan,
        stats: RunStats,
        replay: ReplayClient,
        trainers: LearnerGroup,
        reporter: Reporter,
        failures: FailureBudget,
        clock: Clock,
        stopping: asyncio.Event,
        show_progress: Callable[[], None],
    ) -> None:
        self.plan, self.replay, self.trainers = plan, replay, trainers
        self.stats, self.counters, self.failures = stats, stats.counters, failures
        self.reporter, self.clock, self.stopping, self.show_progress = reporter, clock, stopping, show_progress
        self.newest: Update | None = None
        self.cut_short = False  # whether gradient steps of a round were left undone because the run was asked to stop
        self.rebuilding = asyncio.Lock()
        self.learned_until: float | None = None  # by the learner's clock, in this round
        self.has_batch = False  # whether the learner has been given one, in this round
        self.said_waiting = False

    async def run_due_updates(self, rows: int = 0) -> bool:
        """Take the gradient steps owed after a round of `rows` rows; with 0, those that an interrupted round left.

        While the replay can't serve a batch the debt grows, and nobody waits for it.

        Returns:
            Whether there is nothing more to do; not, if the rollout that was to be learned from is gone.
        """
        data = self.plan.data
        if rows == 0 and not data.is_off_policy:
            return True
        while True:
            lost = self.trainers.handle
            try:
                due = data.due_gradient_steps(self.counters.policy_steps, self.counters.gradient_steps, rows)
                missed = await self.take(self.chunks(due))
            except LostError as error:
                await self.rebuild(lost, error)
                if not data.is_off_policy:
                    return self.newest is not None and self.newest.noted  # with what was learned from again, or not
                continue
            if not missed or not data.is_off_policy:
                return not missed

    async def take(self, steps: Iterable[int]) -> bool:
        """Take gradient steps in chunks; whether a chunk that was drawn was lost before it was learned from.

        Raises:
            LostError: the trainers were lost.
        """
        data, first, progress = self.plan.data, self.counters.gradient_steps, self.counters.progress
        # What a chunk feeds back must not be drawn past, or a run that was interrupted in between drew otherwise.
        ahead = 0 if data.feeds_back and not self.plan.max_staleness else self.plan.prefetch
        chunks, sampled, updating = deque(steps), deque[Chunk](), deque[Update]()
        self.learned_until, self.has_batch, missed = None, False, False
        # The order of these calls decides what is sampled, so it must not depend on how long they take.
        while True:
            if self.stopping.is_set() and data.is_off_policy:
                self.cut_short |= bool(chunks) and self.can_sample()
                chunks.clear()
            while chunks and len(sampled) <= ahead and self.can_sample():
                sampled.append(self.replay.request(first, chunks[0], progress))
                first += chunks.popleft()
            if not sampled:
                break
            if not await self.delivered(chunk := sampled.popleft()):
                missed = not data.is_off_policy
                break
            if self.trainers.is_warming_up:
                began = self.clock.time()
                await self.trainers.warmed_up()
                self.stats.window.compiling += self.clock.time() - began
            self.newest = update = self.trainers.update(chunk, progress)
            updating.append(update)
            while len(updating) > (0 if data.feeds_back else self.plan.prefetch):
                missed |= not await self.updated(updating.popleft())
            if data.feeds_back:
                await require(self.replay.write_back(chunk, AllRanks(update.writes)), "the buffer")
        while updating:
            missed |= not await self.updated(updating.popleft())
        return missed

    def chunks(self, steps: int) -> list[int]:
        """Gradient steps as parts that are worth a call and not too large; a rollout is learned from in one."""
        if not self.plan.data.is_off_policy:
            return [steps]
        most = max(1, min(CHUNK_STEPS, CHUNK_BYTES // max(1, self.replay.batch_bytes)))
        whole, rest = divmod(steps, most)
        return [most] * whole + [rest] * (rest > 0)

    def can_sample(self) -> bool:
        """Whether the replay can serve a batch; the first time that it can't, say so."""
        if not self.plan.data.is_off_policy:
            return True
        if not self.replay.is_ready and not self.said_waiting:
            self.said_waiting = True
            needed, available = self.replay.batch_size, self.replay.available
            self.reporter.message(
                f"the replay holds {available} of {needed} samples; training starts at algo.batch_size={needed}"
            )
        return self.replay.is_ready

    async def delivered(self, chunk: Chunk) -> bool:
        """Wait for a chunk's samples, for which the learner waits too if it is the round's first; whether they came."""
        began = self.clock.time()
        came: bool = await require(self.replay.wait_for(chunk), "the buffer")
        if not self.has_batch:
            self.stats.window.batch_wait += self.clock.time() - began
        self.has_batch = True
        return came

    async def updated(self, update: Update) -> bool:
        """Wait for an update and take note of it; whether it was carried out, and its batches not lost before.

        Raises:
            LostError: the trainers were lost.
        """
        try:
            info = await require(update.answer, "the learner", (DataLostError, LostError))
        except DataLostError:
            if not update.noted:
                self.trainers.give_up(update)
            self.reporter.message("batches were lost with the node they were on; others are drawn", "warning")
            return False
        for note in info.notes:
            self.reporter.message(note)
        if update.noted:
            self.counters.gradient_steps = info.gradient_steps
            return True
        update.noted = True
        self.stats.record_update(info)
        if self.learned_until is not None:
            self.stats.window.batch_wait += max(0.0, info.began - self.learned_until)
        self.learned_until = info.began + info.seconds
        self.show_progress()
        return True

    async def rebuild(self, lost: Handle, error: LostError) -> None:
        """Build the lost trainer group again, and let it take again the gradient steps that can't be drawn anew.

        Raises:
            RunFailedError: it can't be built again, or it was one failure too many.
        """
        async with self.rebuilding:
            if lost is not self.trainers.handle:
                return  # it has been done meanwhile
            if self.trainers.make is None:
                raise RunFailedError(f"the learner failed: {one_line(error)}") from error
            began, before = self.clock.time(), self.counters.gradient_steps
            while True:
                self.counters.trainer_restarts += 1
                self.learned_until = None
                self.failures.count("the trainer group", "built again", error)
                try:
                    self.counters.gradient_steps = await require(self.trainers.rebuild(), "the learner", (LostError,))
                    again = before - self.counters.gradient_steps
                    for update in list(self.trainers.kept):
                        if not await self.updated(update) and update.noted:
                            self.trainers.lacks_rollout = True
                            raise RunFailedError(f"a rollout was lost together with the trainers: {one_line(error)}")
                    break
                except LostError as another:
                    error = another
            seconds = self.clock.time() - began
            self.stats.window.recovery += seconds
            self.reporter.message(f"trainers are back after {seconds:.1f} s; {again} gradient steps are taken again")

    async def weights(self) -> Ref[Rows] | None:
        """The newest weights, laid out for the players; None if the trainers were lost, and are built again by now."""
        lost = self.trainers.handle
        made, weights = self.trainers.weights()
        try:
            await require(made, "the learner", (LostError,))
        except LostError as error:
            await self.rebuild(lost, error)
            return None
        return weights
