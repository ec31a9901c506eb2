"""The run: asks players for fragments, gives them to the buffer, lets the learner learn, counts, recovers.

Read this file first. It is one asyncio program over awaitable handles (`sheeprl.actors.handle`), which may stand for
objects of this process, for Ray actors, or, in simulation, for nothing at all. It says *when*; data passes it by
reference only.

A *round* is `fragment_rows` rows from each of K players. Once the buffer has them all, the gradient steps that are owed
are taken and the weights' version goes up by one. A player begins round r once the weights are no more than
`max_staleness` versions behind it, so at 0 playing and learning take turns and at 1 they overlap. Fragments of a round
are added in the order of the players' numbers, after the previous round's samples were drawn: what is learned doesn't
depend on who was faster.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sheeprl.actors.fragment import FragmentInfo, UpdateInfo
from sheeprl.actors.handle import Every, Handle, LostError, Ref
from sheeprl.actors.shards import Chunk, Shards
from sheeprl.algos.args import OffPolicy, OnPolicy
from sheeprl.buffer.storage import RefusedFragmentError
from sheeprl.errors import RunFailedError, one_line
from sheeprl.evaluate import Evaluation
from sheeprl.report import Progress, Reporter

CHUNK_STEPS = 64  # gradient steps per call to the learner: enough to make the call cheap, few enough to stop soon
CHUNK_BYTES = 64 * 2**20  # and no more than their batches may take, however large a sample is


class Clock(Protocol):
    """Where the run gets its time from."""

    def time(self) -> float:
        """Seconds since some moment."""
        ...


class WallClock:
    """Real time."""

    def time(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()


@dataclass(frozen=True)
class Plan:
    """What the run is asked to do; the numbers of the configuration that concern the driver.

    Args:
        data: how the algorithm reads what was collected.
        total_steps: policy steps.
        players: K.
        fragment_rows: rows of a fragment.
        max_staleness: versions that a fragment may lag behind.
        prefetch: chunks of batches requested ahead.
        max_failures: restarts of players and shards before giving up, and refused fragments in a row of one player.
        log_every: policy steps between lines of metrics; the others likewise, None for never.
        eval_episodes: episodes of an evaluation.
    """

    data: OnPolicy | OffPolicy
    total_steps: int
    players: int
    fragment_rows: int
    max_staleness: int
    prefetch: int = 1
    max_failures: int = 3
    log_every: int = 1000
    checkpoint_every: int | None = None
    eval_every: int | None = None
    eval_episodes: int = 0


@dataclass
class Counters:
    """Everything that is counted; what a checkpoint keeps of the driver."""

    policy_steps: int = 0
    gradient_steps: int = 0
    version: int = 0  # rounds learned
    restarts: int = 0  # of players
    buffer_restarts: int = 0  # of shards of the replay
    refused: int = 0  # fragments that the replay didn't take
    incarnations: list[int] = field(default_factory=list)  # by player
    wall_time: float = 0.0


class Keeper(Protocol):
    """Keeps checkpoints."""

    async def save(self, counters: Counters, learner: Handle, replay: Shards) -> None:
        """Write a checkpoint of learner, replay and counters, whole or not at all."""
        ...


@dataclass(frozen=True)
class Published:
    """Weights that players may play with."""

    version: int
    weights: Ref
    policy_steps: int  # counted when these weights were made, which decides whether play is still random


@dataclass(frozen=True)
class Arrived:
    """A fragment on its way to the buffer."""

    info: FragmentInfo
    fragment: Ref


class Window:
    """What happened since the last line of metrics."""

    def __init__(self, now: float, policy_steps: int, gradient_steps: int) -> None:
        self.began, self.policy_steps, self.gradient_steps = now, policy_steps, gradient_steps
        self.returns: list[float] = []
        self.lengths: list[int] = []
        self.losses: dict[str, list[float]] = {}
        self.playing = self.learning = self.player_idle = self.trainer_idle = self.batch_wait = 0.0
        self.staleness = 0


class Run:
    """One training run.

    Args:
        plan: what to do.
        make_player: handle of player `number` in its `incarnation`; called again to replace one that failed.
        replay: all its shards.
        learner: handle of the trainer group.
        reporter: where metrics and messages go.
        keeper: where checkpoints go.
        counters: where to go on from.
        clock: time.
    """

    def __init__(
        self,
        plan: Plan,
        make_player: Callable[[int, int], Handle],
        replay: Shards,
        learner: Handle,
        reporter: Reporter,
        keeper: Keeper,
        counters: Counters | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.plan = plan
        self.make_player = make_player
        self.replay, self.learner = replay, learner
        replay.on_loss = self.lose_shard
        self.reporter, self.keeper = reporter, keeper
        self.clock = clock or WallClock()
        self.counters = counters or Counters()
        lives = self.counters.incarnations
        lives += [-1] * (plan.players - len(lives))
        self.players: dict[int, Handle] = {}
        self.inbox: list[asyncio.Queue[Arrived]] = [asyncio.Queue() for _ in range(plan.players)]
        self.published: Published | None = None
        self.failures = 0
        self.refusals = [0] * plan.players  # in a row
        self.newer_weights = asyncio.Condition()
        self.stopping = asyncio.Event()
        self.evaluated_at: int | None = None
        self.evaluations: set[asyncio.Task[None]] = set()
        self.learned_until: float | None = None  # by the learner's clock, in this round
        self.has_batch = False  # whether the learner has been given one, in this round
        self.said_waiting = False
        self.mean_return: float | None = None
        self.recent_returns: deque[float] = deque(maxlen=100)
        self.began = self.clock.time() - self.counters.wall_time
        self.began_at = self.counters.policy_steps
        self.periods: dict[str, int] = {}
        self.window = Window(self.clock.time(), self.counters.policy_steps, self.counters.gradient_steps)

    # ------------------------------------------------------------------------------------- the program

    def stop(self) -> None:
        """Ask the run to end with the round it is in, after a checkpoint."""
        self.stopping.set()

    async def train(self) -> None:
        """Train until `total_steps` are played, or `stop` was called; write a checkpoint at the end either way.

        Raises:
            RunFailedError: a player failed too often, or learner or buffer failed. What could be saved was saved.
        """
        try:
            await self.asked(self.replay.start(), "the buffer")
            await self.take_gradient_steps(0, self.progress())
            await self.publish()
            players = [asyncio.ensure_future(self.play(number)) for number in range(self.plan.players)]
            await self.until_learned(asyncio.ensure_future(self.learn()), players)
        except RunFailedError:
            await self.save_what_is_left()
            raise
        await asyncio.gather(*self.evaluations)
        if self.evaluated_at != self.counters.policy_steps and not self.stopping.is_set() and self.plan.eval_episodes:
            await self.evaluate()
        self.log_metrics()
        await self.checkpoint()

    async def until_learned(self, learning: asyncio.Future[None], players: Sequence[asyncio.Future[None]]) -> None:
        """Wait for `learn`. A player that gives up ends the run with the round that is being learned."""
        try:
            waiting: set[asyncio.Future[None]] = {learning, *players}
            while not learning.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if any(player in done and player.exception() for player in players):
                    self.stop()
            learning.result()
            for player in players:
                if player.done() and self.counters.policy_steps < self.plan.total_steps:
                    player.result()
        finally:
            for task in (learning, *players):
                task.cancel()
            await asyncio.gather(learning, *players, return_exceptions=True)

    async def play(self, number: int) -> None:
        """Let one player play round after round, as far ahead of the weights as it may."""
        round_number = self.counters.version
        while True:
            weights = await self.weights_for(round_number)
            self.inbox[number].put_nowait(await self.fragment_of(number, weights))
            round_number += 1

    async def learn(self) -> None:
        """Round after round: take in the players' fragments, take the gradient steps owed, publish the weights."""
        while not self.is_over():
            arrived = await self.next_round()
            if arrived is None:
                return
            progress = self.progress()  # of the round's beginning: a last round at rate 0 would be played for nothing
            rows = await self.add(arrived)
            del arrived  # so that the fragments, which the buffer has copied, leave the object store
            await self.take_gradient_steps(rows, progress)
            self.counters.version += 1
            await self.publish()
            await self.keep_books()

    # ----------------------------------------------------------------------------------------- playing

    async def weights_for(self, round_number: int) -> Published:
        """Wait until the weights are recent enough to play a round with."""
        began = self.clock.time()
        async with self.newer_weights:
            await self.newer_weights.wait_for(lambda: self.may_play(round_number))
        self.window.player_idle += self.clock.time() - began
        assert self.published is not None
        return self.published

    def may_play(self, round_number: int) -> bool:
        """Whether the weights are recent enough for a round that will still be learned from."""
        if self.published is None or self.is_over():
            return False
        return round_number - self.published.version <= self.plan.max_staleness

    def is_over(self) -> bool:
        """Whether no further round begins."""
        return self.counters.policy_steps >= self.plan.total_steps or self.stopping.is_set()

    def progress(self) -> float:
        """Part of the run that has been played."""
        return min(1.0, self.counters.policy_steps / self.plan.total_steps)

    async def fragment_of(self, number: int, published: Published) -> Arrived:
        """A fragment of one player, which is replaced for as often as it may fail."""
        while True:
            starting = published.policy_steps < self.plan.data.learning_starts
            mode = "random" if starting else "explore"
            progress = min(1.0, published.policy_steps / self.plan.total_steps)
            request = (self.plan.fragment_rows, published.weights, published.version, mode, progress)
            try:
                info, fragment = self.player(number).call_pair("collect", *request)
                return Arrived(await info, fragment)
            except Exception as error:
                self.lose_player(number, error)
                published = self.published or published  # the newest weights for the one that takes its place

    def player(self, number: int) -> Handle:
        """The player of that number; a new incarnation if there is none."""
        if number not in self.players:
            self.counters.incarnations[number] += 1
            self.players[number] = self.make_player(number, self.counters.incarnations[number])
        return self.players[number]

    def lose_player(self, number: int, error: Exception) -> None:
        """Count a failed player and let go of it.

        Raises:
            RunFailedError: it was one failure too many.
        """
        if number in self.players:  # it may have failed at being made
            self.players.pop(number).close()
        self.counters.restarts += 1
        self.count_failure(f"player {number}", "replaced", error)

    def lose_shard(self, number: int, error: LostError) -> None:
        """Count a shard of the replay that was lost; another has its place, with what was kept in files, or nothing.

        Raises:
            RunFailedError: it was one failure too many, or it held the rollout that is to be learned from.
        """
        self.counters.buffer_restarts += 1
        if not self.plan.data.carries_debt:
            raise RunFailedError(f"the buffer failed: {one_line(error)}") from error
        self.count_failure(f"shard {number} of the replay", "replaced", error)

    def count_failure(self, who: str, what: str, error: Exception) -> None:
        """Say what becomes of who has failed.

        Raises:
            RunFailedError: it was one failure too many.
        """
        self.failures += 1
        most, reason = self.plan.max_failures, one_line(error)
        if self.failures > most:
            raise RunFailedError(
                f"{who} has failed once too often: {reason} (ray.max_failures={most})", getattr(error, "trace", "")
            ) from error
        self.reporter.message(f"{who} is {what} ({self.failures} of {most}): {reason}", "warning")

    # ---------------------------------------------------------------------------------------- learning

    async def next_round(self) -> list[Arrived] | None:
        """One fragment of every player, in the order of their numbers; None if the run is to stop before."""
        began = self.clock.time()
        arrivals = asyncio.ensure_future(_in_order(queue.get() for queue in self.inbox))
        stopping = asyncio.ensure_future(self.stopping.wait())
        await asyncio.wait({arrivals, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        self.window.trainer_idle += self.clock.time() - began
        if arrivals.done():
            return arrivals.result()
        arrivals.cancel()
        return None

    async def add(self, arrived: list[Arrived]) -> int:
        """Put a round's fragments into the replay and count those that it took; how many rows these have.

        Raises:
            RunFailedError: the buffer failed, or refused what the run can't do without.
        """
        refused = await self.asked(self.replay.add([each.fragment for each in arrived]), "the buffer")
        taken = [each.info for each, error in zip(arrived, refused, strict=True) if error is None]
        for info in taken:
            self.counters.policy_steps += info.policy_steps
            self.window.playing += info.seconds
            self.window.staleness = max(self.window.staleness, self.counters.version - info.version)
            self.window.returns += info.returns
            self.window.lengths += info.lengths
            self.recent_returns += info.returns
        if self.recent_returns:
            self.mean_return = sum(self.recent_returns) / len(self.recent_returns)
        for number, error in enumerate(refused):
            self.note_refusal(number, error)
        return sum(info.rows for info in taken)

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
        if not self.plan.data.carries_debt:
            raise RunFailedError(told) from error
        if self.refusals[number] > most:
            raise RunFailedError(f"{told} (once too often in a row; ray.max_failures={most})") from error
        self.reporter.message(told, "warning")

    async def take_gradient_steps(self, rows: int, progress: float) -> None:
        """Take the gradient steps owed after a round of `rows` rows; with 0, those that an interrupted round left.

        While the replay can't serve a batch the debt grows, and nobody waits for it.
        """
        data, first = self.plan.data, self.counters.gradient_steps
        if rows == 0 and not data.carries_debt:
            return
        chunks = deque(self.chunks(data.owed(self.counters.policy_steps, first, rows)))
        sampled: deque[Chunk] = deque()
        updating: deque[Ref] = deque()
        self.learned_until, self.has_batch = None, False
        # The order of these calls decides what is sampled, so it must not depend on how long they take.
        while True:
            if self.stopping.is_set() and data.carries_debt:
                chunks.clear()  # a resumed run takes the steps that are still owed
            while chunks and len(sampled) <= self.plan.prefetch and self.can_sample():
                sampled.append(self.replay.request(first, chunks[0], progress))
                first += chunks.popleft()
            if not sampled or not await self.delivered(chunk := sampled.popleft()):
                break
            info, writes = self.learner.call_pair("update", chunk.steps, progress, chunk.order, *chunk.blocks)
            updating.append(info)
            while len(updating) > (0 if data.feeds_back else self.plan.prefetch):
                await self.updated(updating.popleft())
            if data.feeds_back:
                await self.asked(self.replay.write_back(chunk, Every(writes)), "the buffer")
        while updating:
            await self.updated(updating.popleft())

    def chunks(self, steps: int) -> list[int]:
        """Gradient steps as parts that are worth a call and not too large; a rollout is learned from in one."""
        if not self.plan.data.carries_debt:
            return [steps]
        most = max(1, min(CHUNK_STEPS, CHUNK_BYTES // max(1, self.replay.batch_bytes)))
        whole, rest = divmod(steps, most)
        return [most] * whole + [rest] * (rest > 0)

    def can_sample(self) -> bool:
        """Whether the replay can serve a batch; the first time that it can't, say so."""
        if not self.replay.is_ready and not self.said_waiting:
            self.said_waiting = True
            needed, available = self.replay.batch_size, self.replay.available
            self.reporter.message(
                f"waiting until the replay holds {needed} samples for a batch of {needed}; it has {available}"
            )
        return self.replay.is_ready

    async def delivered(self, chunk: Chunk) -> bool:
        """Wait for a chunk's samples, for which the learner waits too if it is the round's first; whether they came."""
        began = self.clock.time()
        came: bool = await self.asked(self.replay.deliver(chunk), "the buffer")
        if not self.has_batch:
            self.window.batch_wait += self.clock.time() - began
        self.has_batch = True
        return came

    async def updated(self, answer: Ref) -> None:
        """Wait for an update and take note of it."""
        info: UpdateInfo = await self.asked(answer, "the learner")
        self.counters.gradient_steps = info.gradient_steps
        self.window.learning += info.seconds
        if self.learned_until is not None:
            self.window.batch_wait += max(0.0, info.began - self.learned_until)
        self.learned_until = info.began + info.seconds
        for name, value in info.metrics.items():
            self.window.losses.setdefault(name, []).append(value)
        self.show_progress()

    async def publish(self) -> None:
        """Let players have the newest weights. They stay where they are; players pull them."""
        made, weights = self.learner.call_pair("weights")
        await self.asked(made, "the learner")
        async with self.newer_weights:
            self.published = Published(self.counters.version, weights, self.counters.policy_steps)
            self.newer_weights.notify_all()

    async def asked(self, answer: Awaitable[Any], who: str) -> Any:
        """Wait for something without which the run can't go on.

        Raises:
            RunFailedError: it failed.
        """
        try:
            return await answer
        except RunFailedError:
            raise
        except Exception as error:
            raise RunFailedError(f"{who} failed: {one_line(error)}", getattr(error, "trace", "")) from error

    # ------------------------------------------------------------------------------------ book-keeping

    async def keep_books(self) -> None:
        """After a round: show, log, evaluate and write a checkpoint, each when it is due."""
        self.show_progress()
        if self.due("log", self.plan.log_every):
            self.log_metrics()
        if self.due("evaluate", self.plan.eval_every):
            self.evaluations.add(asyncio.ensure_future(self.evaluate()))
        if self.due("checkpoint", self.plan.checkpoint_every):
            await self.checkpoint()

    def due(self, what: str, every: int | None) -> bool:
        """Whether a multiple of `every` policy steps was passed since this was asked last."""
        if every is None:
            return False
        before = self.periods.get(what, self.began_at // every)
        self.periods[what] = self.counters.policy_steps // every
        return self.periods[what] > before

    async def evaluate(self) -> None:
        """Let the first player play greedy episodes with the newest weights, and log what they brought."""
        published, step = self.published, self.counters.policy_steps
        assert published is not None
        self.evaluated_at = step
        try:
            result: Evaluation = await self.player(0).call("evaluate", published.weights, self.plan.eval_episodes)
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

    async def checkpoint(self) -> None:
        """Write a checkpoint.

        Raises:
            RunFailedError: it can't be written, or learner or buffer failed.
        """
        self.counters.wall_time = self.clock.time() - self.began
        try:
            await self.keeper.save(self.counters, self.learner, self.replay)
        except Exception as error:
            raise RunFailedError(
                f"no checkpoint could be written: {one_line(error)}", getattr(error, "trace", "")
            ) from error

    async def save_what_is_left(self) -> None:
        """Write a checkpoint of a run that failed, if its parts still can."""
        try:
            await self.checkpoint()
        except RunFailedError as error:
            self.reporter.message(error.reason, "error")

    def show_progress(self) -> None:
        """Tell the reporter where the run is."""
        counters, plan = self.counters, self.plan
        self.reporter.progress(
            Progress(
                policy_steps=counters.policy_steps,
                total_steps=plan.total_steps,
                gradient_steps=counters.gradient_steps,
                mean_return=self.mean_return,
                players_alive=len(self.players),
                players=plan.players,
            )
        )

    def log_metrics(self) -> None:
        """Write a line of metrics over what happened since the last one."""
        counters, window, now = self.counters, self.window, self.clock.time()
        steps, updates = counters.policy_steps - window.policy_steps, counters.gradient_steps - window.gradient_steps
        if not steps and not updates:
            return
        seconds = max(now - window.began, 1e-9)
        values = {name: _mean(losses) for name, losses in window.losses.items()}
        if window.returns:
            values |= {"Rewards/rew_avg": _mean(window.returns), "Game/ep_len_avg": _mean(window.lengths)}
        if window.playing:
            values["Time/sps_env_interaction"] = steps * self.plan.players / window.playing
        if window.learning:
            values["Time/sps_train"] = updates / window.learning
        values |= {
            "Time/sps": steps / seconds,
            "Time/player_idle": window.player_idle / (seconds * self.plan.players),
            "Time/trainer_idle": window.trainer_idle / seconds,
            "Time/trainer_wait_batch": window.batch_wait / seconds,
            "Params/replay_ratio": counters.gradient_steps / max(1, counters.policy_steps),
            "Params/gradient_steps": counters.gradient_steps,
            "Players/alive": len(self.players),
            "Players/restarts": counters.restarts,
            "Weights/staleness": window.staleness,
            "Buffer/size": self.replay.size,
            "Buffer/restarts": counters.buffer_restarts,
            # What a shard counts is lost with it; refused fragments, which were not learned from, are counted here.
            **{f"Buffer/{what}": count for what, count in self.replay.counts.items() if count},
            "Buffer/refused": counters.refused,
        }
        self.reporter.metrics(counters.policy_steps, values)
        self.window = Window(now, counters.policy_steps, counters.gradient_steps)


async def _in_order(awaitables: Iterable[Awaitable[Arrived]]) -> list[Arrived]:
    return [await awaitable for awaitable in awaitables]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
