"""Train: collect rounds, take the gradient steps that are due, publish weights, evaluate, save checkpoints.

Read this file first. The driver is one asyncio program over awaitable handles (`sheeprl.actors.handle`). A handle
stands for an object of this process, for a Ray actor or, in tests, for a simulated worker. The driver only schedules;
data moves between workers as object references.

A *round* is `fragment_rows` rows from each of K players. Once the replay buffer holds a round, the gradient steps that
are due are taken and the version of the weights increases by one. Collection may run at most `max_staleness` versions
ahead of training.

Lost workers are replaced. `sheeprl.driver.collection` replaces players, `sheeprl.driver.replay` restores shards from
the newest checkpoint, and `sheeprl.driver.updates` rebuilds the trainers from their last snapshot and takes the
gradient steps since then again. A checkpoint captures the end of a round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sheeprl.actors.handle import Handle, LostError
from sheeprl.callbacks.base import Callbacks, RunView
from sheeprl.config.defaults import default_checkpoint_steps
from sheeprl.config.schema import Config
from sheeprl.driver.checkpointing import CheckpointScheduler, CheckpointStore
from sheeprl.driver.clock import Clock, WallClock
from sheeprl.driver.collection import Collector
from sheeprl.driver.evaluation import Evaluator
from sheeprl.driver.failures import FailureBudget
from sheeprl.driver.players import PlayerGroup
from sheeprl.driver.replay import ReplayClient
from sheeprl.driver.stopping import Stopping
from sheeprl.driver.trainers import LearnerGroup, Snapshot
from sheeprl.driver.updates import UpdateScheduler
from sheeprl.metrics.counters import Counters, RunStats
from sheeprl.metrics.display import Progress
from sheeprl.metrics.memory import MemoryReport
from sheeprl.metrics.reporter import Reporter
from sheeprl.metrics.time_breakdown import TimeBreakdown, in_short
from sheeprl.utils.errors import RunFailedError, require

CHECKPOINT_REST = 10.0  # times the duration of a long checkpoint, until the next one by the default of policy steps
SNAPSHOT_REST = 20.0  # times the duration of a snapshot, until the next one: a thousand players make one due per round
MOST_STORED_UPDATES = 8  # rollouts that wait for a snapshot; the object store holds them until then


class Run:
    """One training run.

    Args:
        config: configuration of the run, with all defaults filled in.
        players: the group of all players.
        replay: client of the replay buffer.
        trainers: the trainer group.
        reporter: receives metrics and messages.
        store: stores checkpoints.
        stats: counters to continue from; None starts at zero.
        clock: source of time; None for real time.
        find_moves: returns the players that have to move to another process, with the reason; gets the seconds that
            the trainers have waited for players.
        make_evaluator: makes a worker for evaluations during training; None if the first player evaluates.
        callbacks: callbacks, called at the border between two rounds.
    """

    def __init__(
        self,
        config: Config,
        players: PlayerGroup,
        replay: ReplayClient,
        trainers: LearnerGroup,
        reporter: Reporter,
        store: CheckpointStore,
        stats: RunStats | None = None,
        clock: Clock | None = None,
        find_moves: Callable[[float], Awaitable[dict[int, str]]] | None = None,
        make_evaluator: Callable[[int], Handle] | None = None,
        callbacks: Callbacks | None = None,
    ) -> None:
        """Store the workers and make the parts of the driver."""
        self.config, self.data = config, config.algo.data()
        self.players, self.replay, self.trainers = players, replay, trainers
        self.reporter = reporter
        self.clock = clock or WallClock()
        self.stats = stats or RunStats(Counters(), self.clock.time())
        self.checkpointing = CheckpointScheduler(
            store, self.stats, players, replay, trainers, self.clock.time, config.checkpoint.every_seconds
        )
        if config.checkpoint.every == default_checkpoint_steps(config.run.total_steps):
            self.checkpointing.rest = CHECKPOINT_REST
        self.counters = self.stats.counters
        self.failures = FailureBudget(
            config.ray.max_failures,
            config.ray.failure_window,
            self.clock.time,
            reporter.message,
            config.ray.max_node_losses,
        )
        self.stopping = Stopping(self.clock)
        self.updates = UpdateScheduler(
            config, self.stats, replay, trainers, reporter, self.failures, self.clock, self.stopping, self.show_progress
        )
        self.collector = Collector(
            config,
            self.stats,
            players,
            replay,
            self.checkpointing,
            reporter,
            self.failures,
            self.clock,
            self.stopping,
            self.updates.weights,
            find_moves,
        )
        self.callbacks = callbacks or Callbacks()
        self.callbacks.bind(
            RunView(
                config,
                self.callbacks.run_dir,
                self.stats,
                self.seconds,
                reporter.message,
                self.stopping.stop,
                self.change_env,
            )
        )
        self.evaluator = Evaluator(
            config, self.stats, players, self.collector, reporter, make_evaluator, self.callbacks
        )
        self.next_snapshot = float("-inf")  # time from which a snapshot costs little of the time
        self.border = self.counters.version  # number of the border whose callbacks are called: rounds trained on
        self.has_begun = False  # rounds have been requested
        self.memory = MemoryReport(config, reporter.message)
        self.is_collecting = False

    def stop(self, patience: float = 10.0) -> None:
        """Stop after the rounds in progress, and save a checkpoint.

        Args:
            patience: seconds to wait for the rounds in progress.
        """
        self.stopping.stop(patience)

    async def train(self) -> None:
        """Train until `run.total_steps`, or until `stop` is called, and save a checkpoint.

        Raises:
            RunFailedError: a worker failed too often or beyond repair. A checkpoint is saved first, if possible.
        """
        watching = asyncio.ensure_future(self.collector.watch_moves())
        try:
            await require(self.replay.start(), "the buffer")
            await self.collector.start_players()
            await self.updates.run_due_updates()  # left over from an interrupted round
            await self.publish()
            self.trainers.warm_up()
            self.has_begun = True
            self.callbacks.call("on_start")
            self.is_collecting = True
            if self.stats.evaluating:  # interrupted before its result was on file
                self.stats.evaluating.clear()
                self.evaluator.begin()
            await self.finish_round()
            await self.collector.collect_during(self.learn(), watching)
        except RunFailedError as error:
            if getattr(error.__cause__, "is_env_change", False):  # a resumed run would fail again
                self.stats.env_changes.forget_from(self.counters.version)
            await self.save_last_resort()
            raise
        finally:
            watching.cancel()
        self.border = self.stats.finished_rounds + 1  # at which a run that goes on would call the callbacks
        await self.evaluator.finish()
        if self.is_complete:
            if self.stats.evaluated_at != self.counters.policy_steps and self.config.eval.episodes:
                await self.evaluator.evaluate()
            self.updates.warn_of_missed_steps()
            self.log_metrics()
        await self.checkpointing.written(self.log_error)
        self.call_back()
        await self.write_last_checkpoint()

    @property
    def is_complete(self) -> bool:
        """Return True if the run has reached `run.total_steps`, or a callback has ended it."""
        if self.counters.policy_steps >= self.config.run.total_steps:
            return True
        return self.callbacks.stopped_by is not None and not self.stopping.is_interrupted

    async def write_last_checkpoint(self) -> None:
        """Save the last checkpoint, and rebuild the trainers first if they are lost."""
        while True:
            lost = self.trainers.handle
            try:
                await self.updates.run_due_updates()  # which rebuilt trainers may still miss
                idle = [number for number in self.collector.idle_players if number or not self.evaluator.is_player_busy]
                return await self.checkpointing.write_last(idle)
            except RunFailedError as error:
                if not isinstance(error.__cause__, LostError):
                    raise
                await self.updates.rebuild(lost, error.__cause__)

    async def learn(self) -> None:
        """Train on one round after another until the run is complete or stopped."""
        while not self.collector.is_over:
            rows = await self.collector.next_round()
            if rows is None:
                return
            while not await self.updates.run_due_updates(rows):  # the rollout was lost with the buffer
                if not await self.collector.recover_rollout():
                    return
            self.counters.version += 1
            if self.updates.cut_short:
                return  # a resumed run takes the rest of the round's gradient steps
            await self.publish()
            await self.finish_round()

    async def publish(self) -> None:
        """Publish the newest weights to the players."""
        while (weights := await self.updates.weights()) is None:
            await self.updates.run_due_updates()
        await self.collector.publish(weights)

    async def finish_round(self) -> None:
        """Show progress, log, evaluate, save a checkpoint and take a snapshot, each when it is due."""
        self.show_progress()
        self.memory.announce(self.replay.capacity_bytes, self.updates.network_bytes)
        self.collector.saving.limit(self.updates.network_bytes)
        self.border, before = self.counters.version, self.stats.finished_rounds
        self.stats.finished_rounds = self.border
        self.stats.env_changes.merge_until(self.border)
        self.call_back()
        if before < self.border:  # not again after a resume
            self.callbacks.call("on_round")
        if self.stats.is_due("log", self.config.log.every):
            self.log_metrics()
        if self.config.eval.episodes and self.stats.is_due("evaluate", self.config.eval.every):
            self.evaluator.begin()
        due_snapshot = self.stats.is_due("snapshot", self.config.checkpoint.snapshot_every)
        by_steps = self.stats.is_due("checkpoint", self.config.checkpoint.every)
        if by_steps and self.checkpointing.is_resting:
            by_steps = False
            self.checkpointing.postpone()
        if self.checkpointing.is_due(self.collector.rounds.newest, self.collector.rounds.added) or by_steps:
            await self.checkpointing.begin(self.log_error)
        elif due_snapshot and self.trainers.make is not None:
            self.take_snapshot()

    def take_snapshot(self) -> None:
        """Start a snapshot of the trainers, unless the last ones cost too much of the time since."""
        began = self.clock.time()
        if began < self.next_snapshot and len(self.trainers.stored_updates) < MOST_STORED_UPDATES:
            return

        def note_cost(taken: asyncio.Future[Snapshot]) -> None:
            """Compute the time of the next snapshot."""
            now = self.clock.time()
            self.next_snapshot = now + SNAPSHOT_REST * (now - began)

        self.trainers.take_snapshot().add_done_callback(note_cost)  # the next call to the trainers raises its failure

    def change_env(self, values: dict[str, Any]) -> None:
        """Set attributes of all environments from the first round on that no player can have begun.

        The round doesn't depend on the speed of the players, so a resumed run makes the same change.
        """
        ahead = self.config.max_staleness if self.is_collecting else 0
        self.stats.env_changes.add(max(self.border + ahead, self.collector.newest_requested + 1), values)

    def call_back(self) -> None:
        """Call the callbacks with the episodes, evaluations and checkpoints since the last border."""
        for episode in self.stats.take_new_episodes():
            self.callbacks.post("on_episode", episode)
        for path in self.checkpointing.take_new_checkpoints():
            self.callbacks.post("on_checkpoint", path)
        self.callbacks.dispatch()

    def end_callbacks(self, status: str) -> None:
        """Call the callbacks with the last checkpoint and the end of the run.

        Args:
            status: `done`, `interrupted` or `failed`.
        """
        for path in self.checkpointing.take_new_checkpoints():
            self.callbacks.post("on_checkpoint", path)
        self.callbacks.end(status)

    async def save_last_resort(self) -> None:
        """Save a checkpoint of a failed run, if its workers still respond."""
        limit = self.config.ray.wait_timeout  # a shard may wait for a node
        try:
            await asyncio.wait_for(self._save_last_resort(), limit)
        except RunFailedError as error:
            self.log_error(error.reason)
        except asyncio.TimeoutError:
            self.log_error(f"no checkpoint could be written within {limit:g} s (ray.wait_timeout)")

    async def _save_last_resort(self) -> None:
        """Wait for the checkpoint in progress and write another one."""
        await self.checkpointing.written(self.log_error)
        await self.checkpointing.write(last_resort=True)

    def log_error(self, text: str) -> None:
        """Log an error message."""
        self.reporter.message(text, "error")

    def seconds(self) -> float:
        """Return the seconds of the run, including those before a resume."""
        return self.clock.time() - self.checkpointing.began

    def show_progress(self) -> None:
        """Report the progress of the run."""
        counters = self.counters
        self.reporter.progress(
            Progress(
                policy_steps=counters.policy_steps,
                total_steps=self.config.run.total_steps,
                gradient_steps=counters.gradient_steps,
                mean_return=self.stats.mean_return,
                players_alive=len(self.players.handles),
                players=self.config.num_players,
                hint=in_short(self.breakdown, self.config),
                checkpoint_age=self.checkpointing.age,
            )
        )

    @property
    def breakdown(self) -> TimeBreakdown:
        """Return the time breakdown until now."""
        return self.stats.breakdown_until(self.clock.time())

    @property
    def lost_rows(self) -> int:
        """Return the rows lost from the replay; rows of a rollout are no loss once they are trained on."""
        if not self.data.is_off_policy:
            return 0
        return max(0, self.counters.rows + self.replay.counts["initial_rows"] - self.replay.added)

    def log_metrics(self) -> None:
        """Write the metrics of the window since the last line."""
        now = self.clock.time()
        values = self.stats.metrics(now, self.config.num_players)
        if values is None:
            return
        values |= {
            "Players/alive": len(self.players.handles),
            "Buffer/size": self.replay.size,
            **({"Buffer/lost_rows": self.lost_rows} if self.lost_rows else {}),
            # The counts of a lost shard are lost too; the driver counts refused fragments itself.
            **{f"Buffer/{what}": count for what, count in self.replay.counts.items() if count and what != "refused"},
        }
        self.reporter.metrics(self.counters.policy_steps, values)
        self.callbacks.call("on_metrics", self.counters.policy_steps, values)
        self.stats.reset_window(now)
