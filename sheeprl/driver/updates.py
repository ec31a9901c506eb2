"""Run the gradient steps that are due: sample their batches, update the trainers, write results back.

Samples and updates are requested ahead, so that the learner doesn't wait for the next chunk. Lost trainers are rebuilt
from their last snapshot and repeat the gradient steps since then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from sheeprl.actors.handle import AllRanks, DataLostError, Handle, LostError, Ref
from sheeprl.algos.args import OffPolicy
from sheeprl.buffer.storage import Rows
from sheeprl.config.schema import Config
from sheeprl.driver.clock import Clock
from sheeprl.driver.failures import FailureBudget
from sheeprl.driver.replay import Chunk, ReplayClient
from sheeprl.driver.stopping import Stopping
from sheeprl.driver.trainers import LearnerGroup, Update
from sheeprl.metrics.counters import RunStats
from sheeprl.metrics.reporter import Reporter
from sheeprl.utils.errors import RunFailedError, one_line, require
from sheeprl.utils.text import counted

CHUNK_STEPS = 64  # gradient steps per call of the learner: more would delay a stop, fewer would add overhead
COMPILE_PATIENCE = 2.0  # seconds: loading a compiled step from the cache is mostly shorter
CHUNK_BYTES = 64 * 2**20  # limit for the batches of one call, for large samples


class UpdateScheduler:
    """Runs the gradient steps that are due.

    Args:
        config: configuration of the run.
        stats: counters of the run.
        replay: client of the replay buffer.
        trainers: the trainer group.
        reporter: receives messages.
        failures: counts failures per worker.
        clock: source of time.
        stopping: request to stop the run.
        show_progress: called after every update.
    """

    def __init__(
        self,
        config: Config,
        stats: RunStats,
        replay: ReplayClient,
        trainers: LearnerGroup,
        reporter: Reporter,
        failures: FailureBudget,
        clock: Clock,
        stopping: Stopping,
        show_progress: Callable[[], None],
    ) -> None:
        """Store the clients; no update is requested yet."""
        self.data = config.algo.data()
        self.prefetch, self.max_staleness = config.trainer.prefetch, config.max_staleness
        self.replay, self.trainers = replay, trainers
        self.stats, self.counters, self.failures = stats, stats.counters, failures
        self.reporter, self.clock, self.stopping, self.show_progress = reporter, clock, stopping, show_progress
        self.newest: Update | None = None
        self.cut_short = False  # a stop left gradient steps of the round undone
        self.rebuilding = asyncio.Lock()
        self.network_bytes = 0  # of a rank, 0 before the first update
        self.last_update_end: float | None = None  # on the learner's clock; None at the start of a round
        self.has_batch = False  # the first samples of the round have arrived
        self.reported_waiting = False

    async def run_due_updates(self, rows: int = 0) -> bool:
        """Take the gradient steps that are due after a round of `rows` rows, or with 0 those of an interrupted round.

        If the replay can't serve a batch, the steps stay due and this method returns.

        Returns:
            True if no steps are left to take now; False if the rollout was lost before it was used.
        """
        data = self.data
        if rows == 0 and not data.is_off_policy:
            return True
        while True:
            lost = self.trainers.handle
            try:
                due = data.due_gradient_steps(self.counters.policy_steps, self.counters.gradient_steps, rows)
                self._say_pretraining(due)
                missed = await self.take(self.chunks(due))
            except LostError as error:
                await self.rebuild(lost, error)
                if not data.is_off_policy:
                    return self.newest is not None and self.newest.noted  # False if its rollout was lost, too
                continue
            if not missed or not data.is_off_policy:
                return not missed

    async def take(self, steps: Iterable[int]) -> bool:
        """Take gradient steps in chunks.

        Returns:
            True if a sampled chunk was lost before the trainers used it.

        Raises:
            LostError: the trainers were lost.
        """
        data, first, progress = self.data, self.counters.gradient_steps, self.counters.progress
        # A chunk is sampled after the write-back of the one before. Otherwise the samples of a run that was interrupted
        # in between would differ from those of an uninterrupted run.
        ahead = 0 if data.feeds_back and not self.max_staleness else self.prefetch
        chunks, sampled, requested = deque(steps), deque[Chunk](), deque[Update]()
        self.last_update_end, self.has_batch, missed = None, False, False
        # The order of these calls determines the samples, so it must not depend on their duration.
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
                await self.trainers.warmed_up(self._say_compiling, COMPILE_PATIENCE)
                self.stats.window.compiling += self.clock.time() - began
            self.newest = update = self.trainers.update(chunk, progress)
            requested.append(update)
            while len(requested) > (0 if data.feeds_back else self.prefetch):
                missed |= not await self.updated(requested.popleft())
            if data.feeds_back:
                await require(self.replay.write_back(chunk, AllRanks(update.writes)), "the buffer")
        while requested:
            missed |= not await self.updated(requested.popleft())
        return missed

    def _say_pretraining(self, due: int) -> None:
        """Report the gradient steps with which training begins, when they are due and can be taken."""
        steps = self.data.pretrain_steps if isinstance(self.data, OffPolicy) else 0
        if steps and due and not self.counters.gradient_steps and self.replay.is_ready:
            self.reporter.message(
                f"training begins with {counted(steps, 'gradient step')} (algo.pretrain_steps); the time left is known "
                "after them"
            )

    def _say_compiling(self) -> None:
        """Report that training waits for the compiler."""
        self.reporter.message(
            "training waits until the gradient step is compiled, which takes about 20 s; later runs load it from the "
            "cache"
        )

    def chunks(self, steps: int) -> list[int]:
        """Divide gradient steps into chunks for one call each; a rollout is one chunk."""
        if not self.data.is_off_policy:
            return [steps]
        most = max(1, min(CHUNK_STEPS, CHUNK_BYTES // max(1, self.replay.batch_bytes)))
        whole, rest = divmod(steps, most)
        return [most] * whole + [rest] * (rest > 0)

    def can_sample(self) -> bool:
        """Return whether the replay can serve a batch; the first time that it can't, report it."""
        if not self.data.is_off_policy:
            return True
        if not self.replay.is_ready and not self.reported_waiting:
            self.reported_waiting = True
            self.reporter.message(f"{self._held_samples()}; training waits for these")
        return self.replay.is_ready

    def _held_samples(self) -> str:
        """Return how many of the samples of a batch the replay holds."""
        needed, sampler = self.replay.batch_size, self.data.sampler
        kind = counted(needed, "sample") if sampler is None else sampler.describe(needed)
        return f"the replay holds {self.replay.available:,} of the {kind} of a batch"

    def warn_of_missed_steps(self) -> None:
        """Warn at the end of a run about gradient steps that were due when the replay couldn't serve a batch."""
        due = self.data.due_gradient_steps(self.counters.policy_steps, self.counters.gradient_steps, 0)
        if self.data.is_off_policy and due and not self.replay.is_ready:
            self.reporter.message(
                f"{counted(due, 'gradient step')} of {due + self.counters.gradient_steps:,} couldn't be taken: "
                f"{self._held_samples()}",
                "warning",
            )

    async def delivered(self, chunk: Chunk) -> bool:
        """Wait for a chunk's samples. In the first chunk of a round the learner waits for them, too.

        Returns:
            True if the samples arrived, False if they were lost.
        """
        began = self.clock.time()
        arrived: bool = await require(self.replay.wait_for(chunk), "the buffer")
        if not self.has_batch:
            self.stats.window.batch_wait += self.clock.time() - began
        self.has_batch = True
        return arrived

    async def updated(self, update: Update) -> bool:
        """Wait for an update and count it.

        Returns:
            True if the update was taken, False if its batches were lost before.

        Raises:
            LostError: the trainers were lost.
        """
        try:
            info = await require(update.answer, "the learner", (DataLostError, LostError))
        except DataLostError:
            if not update.noted:
                self.trainers.give_up(update)
            self.reporter.message("batches were lost with their node; new ones are sampled", "warning")
            return False
        for note in info.notes:
            self.reporter.message(note)
        if update.noted:
            self.counters.gradient_steps = info.gradient_steps
            return True
        update.noted = True
        self.stats.record_update(info)
        self.network_bytes = info.network_bytes
        if self.last_update_end is not None:
            self.stats.window.batch_wait += max(0.0, info.began - self.last_update_end)
        self.last_update_end = info.began + info.seconds
        self.show_progress()
        return True

    async def rebuild(self, lost: Handle, error: LostError) -> None:
        """Rebuild a lost trainer group and repeat the stored updates, whose data can't be sampled again.

        Args:
            lost: handle of the lost group; if the group has been rebuilt already, nothing happens.
            error: the loss.

        Raises:
            RunFailedError: the group can't be rebuilt, or it failed too often.
        """
        async with self.rebuilding:
            if lost is not self.trainers.handle:
                return  # another task has rebuilt it
            if self.trainers.make is None:
                raise RunFailedError(f"the learner failed: {one_line(error)}") from error
            began, before = self.clock.time(), self.counters.gradient_steps
            while True:
                self.counters.trainer_restarts += 1
                self.last_update_end = None
                self.failures.count("the trainer group", "rebuilt", error)
                try:
                    self.counters.gradient_steps = await require(self.trainers.rebuild(), "the learner", (LostError,))
                    repeated = before - self.counters.gradient_steps
                    for update in list(self.trainers.stored_updates):
                        if not await self.updated(update) and update.noted:
                            self.trainers.rollout_lost = True
                            raise RunFailedError(f"a rollout was lost together with the trainers: {one_line(error)}")
                    break
                except LostError as another:
                    error = another
            seconds = self.clock.time() - began
            self.stats.window.recovery += seconds
            self.reporter.message(
                f"trainers were rebuilt in {seconds:.1f} s and repeat {counted(repeated, 'gradient step')}"
            )

    async def weights(self) -> Ref[Rows] | None:
        """Return a reference to the newest weights; None if the trainers were lost and have been rebuilt."""
        lost = self.trainers.handle
        made, weights = self.trainers.weights()
        try:
            await require(made, "the learner", (LostError,))
        except LostError as error:
            await self.rebuild(lost, error)
            return None
        return weights
