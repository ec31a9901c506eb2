"""The run: asks players for fragments, gives them to the buffer, lets the trainers learn, counts, recovers.

Read this file first. It is one asyncio program over awaitable handles (`sheeprl.actors.handle`), which may stand for
objects of this process, for Ray actors, or, in simulation, for nothing at all. It says *when*; data passes it by
reference only. Two of its jobs have files of their own: gradient steps (`sheeprl.updating`) and checkpoints
(`sheeprl.checkpointing`).

A *round* is `fragment_rows` rows from each of K players. Once the buffer has them all, the gradient steps that are owed
are taken and the weights' version goes up by one. A player begins round r once the weights are no more than
`max_staleness` versions behind it, so at 0 playing and learning take turns and at 1 they overlap. Fragments of a round
are added in the order of the players' numbers, after the previous round's samples were drawn: what is learned doesn't
depend on who was faster.

Whoever is lost is replaced: a player goes on with a new episode, a shard of the replay with the rows that were kept,
the trainers with their last snapshot, from which they take the gradient steps since then again. A checkpoint is of the
border between two rounds: what players hold there travels with their fragments, wherever they are by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from sheeprl.actors.evaluation import Evaluation
from sheeprl.actors.handle import DataLostError, LostError
from sheeprl.buffer.storage import RefusedFragmentError
from sheeprl.driver.checkpointing import CheckpointScheduler, CheckpointStore
from sheeprl.driver.collection import Arrived, Published, _in_order
from sheeprl.driver.failures import FailureBudget
from sheeprl.driver.players import PlayerGroup, PlayerState
from sheeprl.driver.replay import ReplayClient
from sheeprl.driver.settings import Clock, Plan, WallClock
from sheeprl.driver.trainers import LearnerGroup
from sheeprl.driver.updates import UpdateScheduler
from sheeprl.metrics.counters import Counters, RunStats
from sheeprl.metrics.reporter import Progress, Reporter
from sheeprl.metrics.time_breakdown import TimeBreakdown, in_short
from sheeprl.utils.errors import RunFailedError, one_line, require

LOOK_FOR_LEAVING = 1.0  # seconds between two looks at which players have to leave their place


class Run:
    """One training run.

    Args:
        plan: what to do.
        players: all of them.
        replay: all its shards.
        trainers: their group.
        reporter: where metrics and messages go.
        keeper: where checkpoints go.
        books: where to go on from.
        clock: time.
        leaving: numbers of players whose place is going to be taken away.
    """

    def __init__(
        self,
        plan: Plan,
        players: PlayerGroup,
        replay: ReplayClient,
        trainers: LearnerGroup,
        reporter: Reporter,
        store: CheckpointStore,
        stats: RunStats | None = None,
        clock: Clock | None = None,
        leaving: Callable[[], Awaitable[set[int]]] | None = None,
    ) -> None:
        self.plan = plan
        self.players, self.replay, self.trainers = players, replay, trainers
        players.on_fresh = self.tell_of_fresh
        replay.on_loss, replay.on_back = self.lose_shard, self.shard_back
        self.reporter = reporter
        self.clock = clock or WallClock()
        self.stats = stats or RunStats(Counters(), self.clock.time())
        self.checkpointing = CheckpointScheduler(
            store, self.stats, players, replay, trainers, self.clock.time, plan.checkpoint_seconds
        )
        self.counters = self.stats.counters
        self.failures = FailureBudget(plan.max_failures, plan.failure_window, self.clock.time, reporter.message)
        self.leaving = leaving
        self.inbox: list[asyncio.Queue[Arrived]] = [asyncio.Queue() for _ in range(plan.players)]
        self.rounds = [self.counters.version] * plan.players  # the next one of each player
        self.asked = [self.counters.version - 1] * plan.players  # the last one that each was asked for
        self.added = self.counters.version  # rounds that are in the buffer
        self.published: Published | None = None
        self.refusals = [0] * plan.players  # in a row
        self.newer_weights = asyncio.Condition()
        self.stopping = asyncio.Event()
        self.updates = UpdateScheduler(
            plan, self.stats, replay, trainers, reporter, self.failures, self.clock, self.stopping, self.show_progress
        )
        self.give_up_at: float | None = None  # on the rounds that were under way when the run was asked to stop
        self.evaluations: set[asyncio.Task[None]] = set()
        self.shards_lost_at: dict[int, float] = {}
        self.unsaved: str | None = None  # why environments' state can't be kept, once the players have tried it
        self.said_fresh = False

    # ------------------------------------------------------------------------------------- the program

    def stop(self, patience: float = 10.0) -> None:
        """Ask the run to end after a checkpoint, at the border of the rounds that players were asked for.

        Args:
            patience: seconds to wait for those of them that are still being played.
        """
        if not self.stopping.is_set():
            self.give_up_at = self.clock.time() + patience
            self.stopping.set()

    async def train(self) -> None:
        """Train until `total_steps` are played, or `stop` was called; write a checkpoint at the end either way.

        Raises:
            RunFailedError: someone failed too often, or in a way that can't be mended. What could be saved was saved.
        """
        watching = asyncio.ensure_future(self.watch_places())
        try:
            await require(self.replay.start(), "the buffer")
            await asyncio.gather(*(self.start_player(number) for number in range(self.plan.players)))
            await self.updates.run_due_updates()  # which an interrupted round has left
            await self.publish()
            self.trainers.warm_up()
            await self.keep_books()
            players = [asyncio.ensure_future(self.play(number)) for number in range(self.plan.players)]
            await self.until_learned(asyncio.ensure_future(self.learn()), players)
        except RunFailedError:
            await self.save_what_is_left()
            raise
        finally:
            watching.cancel()
        await asyncio.gather(*self.evaluations)
        stopped = self.counters.policy_steps < self.plan.total_steps
        if not stopped:
            if self.stats.evaluated_at != self.counters.policy_steps and self.plan.eval_episodes:
                await self.evaluate()
            self.log_metrics()
        await self.checkpointing.written(self.tell_error)
        await self.write_last_checkpoint()

    async def write_last_checkpoint(self) -> None:
        """Write the checkpoint that the run ends with, by trainers that are built again if they are lost meanwhile."""
        while True:
            lost = self.trainers.handle
            try:
                await self.updates.run_due_updates()  # which trainers that were built again after the last round lack
                idle = [number for number in self.players.handles if self.asked[number] < self.counters.version]
                return await self.checkpointing.write_last(idle)
            except RunFailedError as error:
                if not isinstance(error.__cause__, LostError):
                    raise
                await self.updates.rebuild(lost, error.__cause__)

    async def until_learned(self, learning: asyncio.Future[None], players: Sequence[asyncio.Future[None]]) -> None:
        """Wait for `learn`. A player that gives up ends the run with the round that is being learned."""
        try:
            waiting: set[asyncio.Future[None]] = {learning, *players}
            while not learning.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if any(player in done and player.exception() for player in players):
                    self.stop(patience=0.0)
            learning.result()
            for player in players:
                if player.done() and self.counters.policy_steps < self.plan.total_steps:
                    player.result()
        finally:
            for task in (learning, *players):
                task.cancel()
            await asyncio.gather(learning, *players, return_exceptions=True)

    async def start_player(self, number: int) -> None:
        """Have a player made, and let it take over its state if it has one."""
        try:
            await self.players.get(number)
        except Exception as error:
            self.lose_player(number, error)

    async def play(self, number: int) -> None:
        """Let one player play round after round, as far ahead of the weights as it may."""
        while True:
            weights = await self.weights_for(number)
            self.asked[number] = self.rounds[number]
            arrived = await self.fragment_of(number, weights)
            self.rounds[number] += 1
            self.inbox[number].put_nowait(arrived)

    async def learn(self) -> None:
        """Round after round: take in the players' fragments, take the gradient steps owed, publish the weights."""
        while not self.is_over():
            arrived = await self.next_round()
            if arrived is None or not await self.learn_round(arrived):
                return
            self.counters.version += 1
            if self.updates.cut_short:
                return  # a resumed run ends the round
            await self.publish()
            await self.keep_books()

    async def learn_round(self, arrived: list[Arrived]) -> bool:
        """Learn from a round, as long as its fragments can be had; whether that was done."""
        # Of the round's beginning: a last round at rate 0 would be played for nothing.
        self.counters.progress = self.progress()
        rows = await self.add(arrived)
        if rows is None:
            return False
        if self.plan.data.is_off_policy:
            arrived.clear()  # so that the fragments, which the buffer has copied, leave the object store
        while not await self.updates.run_due_updates(rows):  # the rollout was lost with the buffer
            if await self.add_again(arrived) is None:
                return False
        return True

    # ----------------------------------------------------------------------------------------- playing

    async def weights_for(self, number: int) -> Published:
        """Wait until the weights are recent enough for a player's next round."""
        self.stats.start_wait(number, self.clock.time())
        try:
            async with self.newer_weights:
                await self.newer_weights.wait_for(lambda: self.may_play(self.rounds[number]))
        finally:
            self.stats.end_wait(number, self.clock.time())
        assert self.published is not None
        return self.published

    def may_play(self, round_number: int) -> bool:
        """Whether the weights are recent enough for a round that will still be learned from."""
        if self.published is None:
            return False
        if self.counters.policy_steps >= self.plan.total_steps and round_number >= self.added:  # not one played again
            return False
        if self.stopping.is_set() and round_number > max(self.asked):
            return False
        return round_number - self.published.version <= self.plan.max_staleness

    def is_over(self) -> bool:
        """Whether no further round is learned."""
        if self.stopping.is_set() and self.counters.version > max(self.asked):
            return True
        return self.counters.policy_steps >= self.plan.total_steps

    def progress(self) -> float:
        """Part of the run that has been played."""
        return min(1.0, self.counters.policy_steps / self.plan.total_steps)

    async def fragment_of(self, number: int, published: Published) -> Arrived:
        """A fragment of one player, which is replaced for as often as it may fail."""
        lost_at: float | None = None
        while True:
            try:
                arrived = await self.collect(number, published)
            except DataLostError:
                await self.publish_again(published)
            except Exception as error:
                lost_at = lost_at if lost_at is not None else self.clock.time()
                self.lose_player(number, error)
            else:
                if lost_at is not None:
                    seconds = self.clock.time() - lost_at
                    self.stats.window.recovery += seconds
                    self.reporter.message(f"player {number} is back: a fragment after {seconds:.1f} s")
                return arrived
            published = self.published or published  # the newest weights for the one that takes its place

    async def collect(self, number: int, published: Published) -> Arrived:
        """Ask a player for a fragment, and for what it holds afterwards if a checkpoint may be due then."""
        if number in self.players.leaving and number in self.players.handles:
            await self.players.move(number)
        player = await self.players.get(number)
        mode = "random" if published.policy_steps < self.plan.data.learning_starts else "explore"
        progress = min(1.0, published.policy_steps / self.plan.total_steps)
        request = (self.plan.fragment_rows, published.weights, published.version, mode, progress)
        checkpointing = (self.may_checkpoint_after(self.rounds[number]), self.unsaved)
        info, fragment = player.call_pair("collect", *request, *checkpointing)
        return Arrived(await info, fragment, self.players.current[number])

    def may_checkpoint_after(self, round_number: int) -> bool:
        """Whether a checkpoint can be due at the end of a round that isn't played yet."""
        if self.checkpointing.wants_states_of(round_number):
            return True
        steps = self.counters.policy_steps
        most = steps + (round_number - self.added + 1) * self.plan.round_rows
        every = self.plan.checkpoint_every
        return most >= self.plan.total_steps or (every is not None and most // every > steps // every)

    def lose_player(self, number: int, error: Exception) -> None:
        """Count a failed player and let go of it.

        Raises:
            RunFailedError: it was one failure too many.
        """
        self.players.drop(number)
        self.counters.restarts += 1
        self.failures.count(f"player {number}", "replaced", error)

    def lose_shard(self, number: int, error: LostError) -> None:
        """Count a shard of the replay that was lost; another has its place, with what was kept of its rows.

        Raises:
            RunFailedError: it was one failure too many.
        """
        self.counters.buffer_restarts += 1
        self.shards_lost_at.setdefault(number, self.clock.time())
        self.failures.count(f"shard {number} of the replay", "replaced", error)

    def shard_back(self, number: int, lost: int, error: Exception | None) -> None:
        """Say how much of a lost shard's rows its successor lacks."""
        seconds = self.clock.time() - self.shards_lost_at.pop(number)
        self.stats.window.recovery += seconds
        if error is not None:
            self.tell_error(f"shard {number} of the replay can't be restored from the checkpoint: {one_line(error)}")
        told = f"shard {number} of the replay is back after {seconds:.1f} s"
        if self.plan.data.is_off_policy:  # of a rollout nothing is lost: another is played
            told += f" without the {lost} rows that weren't saved" if lost else " with all its rows"
        self.reporter.message(told)

    def tell_of_fresh(self, number: int, reason: str) -> None:
        """Say that a player begins new episodes, because its environments couldn't be put where they were."""
        self.reporter.message(f"player {number} begins new episodes: {reason}")

    async def watch_places(self) -> None:
        """Find out which players have to leave their place; they do so once they have brought their fragment."""
        while self.leaving is not None:
            for number in await self.leaving() - self.players.leaving:
                self.reporter.message(f"player {number} moves: its node is being drained")
                self.players.leaving.add(number)
            await asyncio.sleep(LOOK_FOR_LEAVING)

    # ---------------------------------------------------------------------------------------- learning

    async def next_round(self) -> list[Arrived] | None:
        """One fragment of every player, in the order of their numbers; None if the run is to stop before."""
        began = self.clock.time()
        arrived: list[Arrived] | None = await self.unless_stopped(_in_order(queue.get() for queue in self.inbox))
        self.stats.window.trainer_idle += self.clock.time() - began
        return arrived

    async def unless_stopped(self, awaited: Awaitable[Any]) -> Any:
        """Wait for something; None if the run is asked to stop and patience ends before."""
        waiting = asyncio.ensure_future(awaited)
        stopping = asyncio.ensure_future(self.stopping.wait())
        await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not waiting.done() and self.give_up_at is not None:
            await asyncio.wait({waiting}, timeout=max(0.0, self.give_up_at - self.clock.time()))
        if waiting.done():
            return waiting.result()
        waiting.cancel()
        return None

    async def add(self, arrived: list[Arrived]) -> int | None:
        """Put a round's fragments into the replay and count those that it took; how many rows these have.

        Returns:
            None if the run is asked to stop while a part of a rollout is lacking.

        Raises:
            RunFailedError: the buffer failed, or refused what the run can't do without.
        """
        outcomes = await self.add_until_there(arrived)
        if outcomes is None:
            return None
        taken = [each for each, error in zip(arrived, outcomes, strict=True) if error is None]
        for each in taken:
            self.stats.record_fragment(each.info)
        for number, error in enumerate(outcomes):
            if not isinstance(error, DataLostError):
                self.note_refusal(number, error)
        self.added += 1
        self.keep_states(arrived)
        return sum(each.info.rows for each in taken)

    async def add_until_there(self, arrived: list[Arrived]) -> list[RefusedFragmentError | DataLostError | None] | None:
        """Put fragments into the replay; a rollout again, if the replay was lost when it had a part of it."""
        while True:
            outcomes = await self.add_or_replace(arrived)
            if self.plan.data.is_off_policy:
                return outcomes
            if any(isinstance(error, DataLostError) for error in outcomes):
                return None
            if any(outcomes) or self.replay.size >= sum(each.info.rows for each in arrived):
                return outcomes

    async def add_or_replace(self, arrived: list[Arrived]) -> list[RefusedFragmentError | DataLostError | None]:
        """Put fragments into the replay, and others in the place of those that were lost with the node they were on.

        Returns:
            Why each wasn't taken: it was refused, or lost while the run is to stop.
        """
        outcomes: list[RefusedFragmentError | DataLostError | None] = [None] * len(arrived)
        lacking = list(range(len(arrived)))
        while lacking:
            fragments = {number: arrived[number].fragment for number in lacking}
            lacking = []
            for number, outcome in (await require(self.replay.add(fragments), "the buffer")).items():
                outcomes[number] = outcome
                if isinstance(outcome, DataLostError) and await self.play_again(number, arrived):
                    lacking.append(number)
        return outcomes

    async def play_again(self, number: int, arrived: list[Arrived]) -> bool:
        """Have a player's next fragment take the place of a lost one; whether it came before the run is to stop."""
        self.reporter.message(f"a fragment of player {number} was lost with its node; it plays another one", "warning")
        self.rounds[number] -= 1
        async with self.newer_weights:
            self.newer_weights.notify_all()
        another: Arrived | None = await self.unless_stopped(self.inbox[number].get())
        if another is not None:
            arrived[number] = another
        return another is not None

    async def add_again(self, arrived: list[Arrived]) -> bool | None:
        """Put a rollout into the buffer that has taken the place of the one which was lost with it.

        Returns:
            None if the run is asked to stop while a part of it is lacking. Then it was never played.
        """
        before = list(arrived)
        if await self.add_until_there(arrived) is None:
            self.added -= 1
            for each in before:
                self.stats.retract_fragment(each.info)
            return None
        for old, new in zip(before, arrived, strict=True):
            if new is not old:
                self.stats.record_fragment(new.info, instead_of=old.info)
        return True

    def keep_states(self, arrived: Sequence[Arrived]) -> None:
        """Remember what players held at the end of the round, as far as they were asked."""
        self.checkpointing.kept = {
            number: PlayerState(each.incarnation, each.info.state)
            for number, each in enumerate(arrived)
            if each.info.state is not None
        }
        if arrived[-1].info.state is not None:  # not the first player's word: it may record its episodes
            self.unsaved = arrived[-1].info.unsaved
        reasons = [each.info.unsaved for each in arrived if each.info.unsaved]
        if reasons and not self.said_fresh:
            self.said_fresh = True
            self.reporter.message(f"a resumed run will begin new episodes: {reasons[0]}")

    def note_refusal(self, number: int, error: RefusedFragmentError | None) -> None:
        """Count and tell of a fragment that the buffer refused; None is of one that it took.

        Raises:
            RunFailedError: it was one too many in a row, or a part of the rollout that is to be learned from.
        """
        self.refusals[number] = 0 if error is None else self.refusals[number] + 1
        if error is None:
            return
        self.counters.refused += 1
        told, most = f"a fragment of player {number} was refused: {one_line(error)}", self.plan.max_failures
        if not self.plan.data.is_off_policy:
            raise RunFailedError(told) from error
        if self.refusals[number] > most:
            raise RunFailedError(f"{told} (once too often in a row; ray.max_failures={most})") from error
        self.reporter.message(told, "warning")

    async def publish(self) -> None:
        """Let players have the newest weights. They stay where they are; players pull them."""
        while (weights := await self.updates.weights()) is None:
            await self.updates.run_due_updates()
        async with self.newer_weights:
            self.published = Published(self.counters.version, weights, self.counters.policy_steps)
            self.newer_weights.notify_all()

    async def publish_again(self, published: Published) -> None:
        """Have weights laid out again that were lost with the node they were on."""
        weights = await self.updates.weights()
        if weights is not None and self.published is published:
            self.published = replace(published, weights=weights)

    # ------------------------------------------------------------------------------------ book-keeping

    async def keep_books(self) -> None:
        """After a round: show, log, evaluate, take a snapshot and write a checkpoint, each when it is due."""
        self.show_progress()
        if self.stats.is_due("log", self.plan.log_every):
            self.log_metrics()
        if self.stats.is_due("evaluate", self.plan.eval_every):
            self.evaluations.add(asyncio.ensure_future(self.evaluate()))
        due_snapshot = self.stats.is_due("snapshot", self.plan.snapshot_every)
        by_steps = self.stats.is_due("checkpoint", self.plan.checkpoint_every)
        if self.checkpointing.is_due(max(self.rounds), self.added) or by_steps:
            await self.checkpointing.begin(self.tell_error)
        elif due_snapshot and self.trainers.make is not None:
            self.trainers.take_snapshot()  # of a failure hears who asks the trainers next

    async def evaluate(self) -> None:
        """Let the first player play greedy episodes with the newest weights, and log what they brought."""
        published, step = self.published, self.counters.policy_steps
        assert published is not None
        self.stats.evaluated_at = step
        try:
            player = await self.players.get(0)
            result: Evaluation = await player.call("evaluate", published.weights, self.plan.eval_episodes)
        except Exception as error:
            self.reporter.message(f"the evaluation at step {step} failed: {one_line(error)}", "error")
            return
        self.reporter.metrics(
            step, {"Test/cumulative_reward": result.mean_return, "Test/cumulative_reward_std": result.std_return}
        )
        self.reporter.message(
            f"evaluation at step {step}: return {result.mean_return:.1f} ± {result.std_return:.1f} "
            f"over {len(result.returns)} episodes"
        )

    async def save_what_is_left(self) -> None:
        """Write a checkpoint of a run that failed, if its parts still can."""
        try:
            await self.checkpointing.written(self.tell_error)
            await self.checkpointing.write(last_resort=True)
        except RunFailedError as error:
            self.tell_error(error.reason)

    def tell_error(self, text: str) -> None:
        """Say what went wrong."""
        self.reporter.message(text, "error")

    def show_progress(self) -> None:
        """Tell the reporter where the run is."""
        counters, plan = self.counters, self.plan
        self.reporter.progress(
            Progress(
                policy_steps=counters.policy_steps,
                total_steps=plan.total_steps,
                gradient_steps=counters.gradient_steps,
                mean_return=self.stats.mean_return,
                players_alive=len(self.players.handles),
                players=plan.players,
                hint=in_short(self.breakdown, plan.setting),
            )
        )

    @property
    def breakdown(self) -> TimeBreakdown:
        """Where the time went until now."""
        return self.stats.breakdown_until(self.clock.time())

    @property
    def lost_rows(self) -> int:
        """Rows that the replay had taken in and lost; a rollout's are no loss once they were learned from."""
        return max(0, self.counters.rows - self.replay.added) if self.plan.data.is_off_policy else 0

    def log_metrics(self) -> None:
        """Write a line of metrics over what happened since the last one."""
        now = self.clock.time()
        values = self.stats.metrics(now, self.plan.players)
        if values is None:
            return
        values |= {
            "Players/alive": len(self.players.handles),
            "Buffer/size": self.replay.size,
            **({"Buffer/lost_rows": self.lost_rows} if self.lost_rows else {}),
            # What a shard counts is lost with it; refused fragments, which were not learned from, are counted here.
            **{f"Buffer/{what}": count for what, count in self.replay.counts.items() if count and what != "refused"},
        }
        self.reporter.metrics(self.counters.policy_steps, values)
        self.stats.reset_window(now)
