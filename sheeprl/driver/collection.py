"""Collect rounds of fragments from the players and add them to the replay buffer.

A *round* is `fragment_rows` rows from each of K players. A player begins round r once the published weights are at most
`max_staleness` versions behind it: at 0 collection and training alternate, at 1 they overlap. The fragments of a round
are added in the order of the players' numbers, so what is learned does not depend on which player was faster.

A lost player is replaced, continues where it stood and collects its fragment again, with the weights that it was due to
use. `adding` collects a fragment that is lost with its node again, from the state before it. So the result doesn't
depend on these losses, unless the environments can't be saved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sheeprl.actors.handle import DataLostError, LostError, Ref
from sheeprl.buffer.fragments import EarlierFragmentMissingError
from sheeprl.buffer.storage import Rows
from sheeprl.config.schema import Config
from sheeprl.driver.adding import FragmentAdder
from sheeprl.driver.checkpointing import CheckpointScheduler
from sheeprl.driver.clock import Clock
from sheeprl.driver.failures import FailureBudget
from sheeprl.driver.players import PlayerGroup, PlayerState, Request
from sheeprl.driver.replay import AddOutcome, ReplayClient
from sheeprl.driver.rounds import CollectedFragment, Signal, make_rounds
from sheeprl.driver.state_saving import StateSaving
from sheeprl.driver.stopping import Stopping
from sheeprl.envs.timeout import StoppedError
from sheeprl.metrics.counters import RunStats
from sheeprl.metrics.reporter import Reporter
from sheeprl.utils.errors import one_line, require
from sheeprl.utils.text import byte_size, counted

if TYPE_CHECKING:
    from sheeprl.actors.messages import FragmentInfo
    from sheeprl.algos.base import Mode

LARGE_STATES = 10 * 2**20  # bytes of all players' states from which their size is reported
MOVE_CHECK_SECONDS = 1.0  # seconds between two checks for players that have to move
MOST_LISTED = 8  # players whose numbers a message lists
MOST_LOSSES = 3  # of a player in one fragment, after which it starts new episodes; its environments may be the cause


@dataclass(frozen=True)
class PublishedWeights:
    """Weights that players may collect with.

    Args:
        version: rounds that these weights have been trained on.
        weights: reference to the weights.
        policy_steps: policy steps at publication. They decide whether the player still acts randomly.
    """

    version: int
    weights: Ref[Rows]
    policy_steps: int


class Collector:
    """Collects rounds from all players and adds them to the replay buffer.

    Args:
        config: configuration of the run.
        stats: counters and metrics of the run.
        players: the group of all players.
        replay: client of the replay buffer.
        checkpointing: receives the players' states at the end of a round.
        reporter: receives messages.
        failures: counts failures per worker.
        clock: source of time.
        stopping: request to stop the run.
        get_weights: returns the newest weights, or None if the trainers were lost and rebuilt in between.
        find_moves: returns the players that have to move to another process, with the reason; gets the seconds that
            the trainers have waited for players.
    """

    def __init__(
        self,
        config: Config,
        stats: RunStats,
        players: PlayerGroup,
        replay: ReplayClient,
        checkpointing: CheckpointScheduler,
        reporter: Reporter,
        failures: FailureBudget,
        clock: Clock,
        stopping: Stopping,
        get_weights: Callable[[], Awaitable[Ref[Rows] | None]],
        find_moves: Callable[[float], Awaitable[dict[int, str]]] | None = None,
    ) -> None:
        """Store the clients; no fragment is requested yet."""
        self.config, self.data = config, config.algo.data()
        self.stats, self.counters = stats, stats.counters
        self.players, self.replay, self.checkpointing = players, replay, checkpointing
        self.reporter, self.failures, self.clock, self.stopping = reporter, failures, clock, stopping
        self.get_weights, self.find_moves = get_weights, find_moves
        players.on_fresh = self._report_fresh_start
        replay.on_loss, replay.on_back = self._count_lost_shard, self._report_restored_shard
        self.saving = StateSaving(config.num_players, config.players.state_cost)
        # In coupled mode, no player can be lost.
        players.keeps_origins = not config.is_coupled and bool(config.players.state_cost and config.checkpoint.envs)
        self.published: PublishedWeights | None = None
        self.rounds = make_rounds(config, self.counters.version)
        self._rollout: list[CollectedFragment] = []  # fragments of the newest round, if on-policy
        self._shards_lost_at: dict[int, float] = {}  # time of the loss, by number of the shard
        self._weights_changed = Signal()
        self.adder = FragmentAdder(
            config,
            self.counters,
            players,
            replay,
            self.rounds,
            reporter,
            stopping,
            self._drop_player,
            self._weights_changed.notify_all,
        )
        self._trainers_waited = 0.0  # seconds for rounds, without the wait in progress
        self._waits_since: float | None = None  # begin of the wait in progress
        self._unsaved: str | None = None  # reason why environment state can't be saved, once a player has tried
        self._reported_unsaved = self._reported_size = False

    # ------------------------------------------------------------------------------------- for the loop

    @property
    def is_over(self) -> bool:
        """Return True if no further round is trained on."""
        if self.stopping.is_set() and self.counters.version > self.newest_requested:
            return True
        return self.counters.policy_steps >= self.config.run.total_steps

    @property
    def newest_requested(self) -> int:
        """Return the newest round that is complete once the requested fragments arrive."""
        return self.rounds.newest_requested

    @property
    def trainers_waited(self) -> float:
        """Return the seconds that the trainers have waited for players."""
        since = self._waits_since
        return self._trainers_waited + (0.0 if since is None else self.clock.time() - since)

    @property
    def idle_players(self) -> list[int]:
        """Return the players all of whose fragments are in the buffer."""
        idle = (number for number in self.rounds.idle if number not in self.adder.given_up)
        return [number for number in idle if number in self.players.handles]

    async def start_players(self) -> None:
        """Create all players and restore the states that a checkpoint holds."""
        await asyncio.gather(*(self._start_player(number) for number in range(self.config.num_players)))

    async def collect_during(self, training: Coroutine[Any, Any, None], watching: asyncio.Future[None]) -> None:
        """Collect until `training` returns. If a player fails for good, stop after the round in training.

        Args:
            training: takes the gradient steps.
            watching: watches the nodes; its failure ends the run at once.

        Raises:
            RunFailedError: training failed, a player failed before the run was complete, or an actor finds no node.
        """
        players = [asyncio.ensure_future(self._collect_rounds(number)) for number in range(self.config.num_players)]
        learning = asyncio.ensure_future(training)
        try:
            waiting: set[asyncio.Future[None]] = {learning, watching, *players}
            while not learning.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if watching in done:
                    watching.result()
                if any(player in done and player.exception() for player in players):
                    self.stopping.stop(patience=0.0)
            learning.result()
            for player in players:
                if player.done() and self.counters.policy_steps < self.config.run.total_steps:
                    player.result()
        finally:
            for task in (learning, *players):
                task.cancel()
            await asyncio.gather(learning, *players, return_exceptions=True)

    async def publish(self, weights: Ref[Rows]) -> None:
        """Publish the newest weights. Players fetch them by reference."""
        self.published = PublishedWeights(self.counters.version, weights, self.counters.policy_steps)
        self._weights_changed.notify_all()

    async def next_round(self) -> int | None:
        """Add the next complete round to the replay buffer.

        Returns:
            Rows added, or None if the run stops before the round is complete.

        Raises:
            RunFailedError: the buffer failed, or refused a fragment that the run depends on.
        """
        self._waits_since = began = self.clock.time()
        fragments: list[CollectedFragment] | None = await self.stopping.wait_unless_interrupted(self.rounds.take())
        seconds, self._waits_since = self.clock.time() - began, None
        self.stats.window.trainer_idle += seconds
        self._trainers_waited += seconds
        if fragments is None:
            return None
        fragments = [each for each in fragments if each.player not in self.adder.given_up]
        # Progress at the start of the round: with a rate of 0 at the end, the last round would be wasted.
        self.counters.progress = min(1.0, self.counters.policy_steps / self.config.run.total_steps)
        outcomes = await self.adder.add(fragments)
        # The buffer has copied off-policy fragments. Drop the references, so that they leave the object store.
        self._rollout = [] if self.data.is_off_policy else fragments
        return None if outcomes is None else self._record_round(fragments, outcomes)

    async def recover_rollout(self) -> bool:
        """Add the newest rollout again after the buffer has lost it.

        Returns:
            False if the run stops before the rollout is complete. Its steps are then not counted.
        """
        before = list(self._rollout)
        if await self.adder.add(self._rollout) is None:
            self.rounds.added -= 1
            for each in before:
                self.stats.retract_fragment(each.info)
            return False
        for old, new in zip(before, self._rollout, strict=True):
            if new is not old:
                self.stats.record_fragment(new.info, instead_of=old.info)
        return True

    async def watch_moves(self) -> None:
        """Mark players that have to move to another process. Each moves after its current fragment."""
        while self.find_moves is not None:
            moves: dict[int, str] = await require(self.find_moves(self.trainers_waited), "the cluster")
            new = {number: reason for number, reason in moves.items() if number not in self.players.leaving}
            for reason in dict.fromkeys(new.values()):
                numbers = [number for number in sorted(new) if new[number] == reason]
                verb = "moves" if len(numbers) == 1 else "move"
                self.reporter.message(f"{_listed(numbers)} {verb}: {reason}")
            self.players.leaving |= new.keys()
            await asyncio.sleep(MOVE_CHECK_SECONDS)

    # -------------------------------------------------------------------------------- one player's rounds

    async def _start_player(self, number: int) -> None:
        """Create a player and restore its state, if it has one."""
        try:
            await self.players.get(number)
        except Exception as error:
            self._drop_player(number, error)

    async def _collect_rounds(self, number: int) -> None:
        """Collect round after round from one player, as far ahead as `max_staleness` permits.

        A failed player is replaced, within the failure budget. If it can't continue where it stood, it gets the newest
        weights.
        """
        while True:
            published = await self._wait_for_weights(number)
            lost_at: float | None = None
            losses = 0
            while True:
                round_number = self.rounds.begin(number, published.version)
                try:
                    fragment = await self._request_fragment(number, published, round_number)
                    break
                except DataLostError:
                    await self._republish(published)
                    published = self.published or published
                except StoppedError:
                    self.players.drop(number)
                    await asyncio.get_running_loop().create_future()  # until the run ends
                except Exception as error:
                    lost_at = lost_at if lost_at is not None else self.clock.time()
                    losses += number in self.players.handles and not getattr(error, "with_node", False)
                    self._drop_player(number, error)
                    if not self._may_continue(number, error, losses):
                        published = self.published or published
            if lost_at is not None:
                self._report_player_back(number, self.clock.time() - lost_at)
            self.rounds.put(fragment)

    def _may_continue(self, number: int, error: Exception, losses: int) -> bool:
        """Return True if a lost player collects its fragment again with the same weights.

        Args:
            number: number of the player.
            error: its failure.
            losses: losses in this fragment.
        """
        if not isinstance(error, LostError):
            self.players.forget(number)  # another seed may avoid the failure
        elif losses == MOST_LOSSES and number in self.players.origins:
            self.players.forget(number)
            self._report_fresh_start(number, f"it was lost {losses} times in the same fragment")
        return number in self.players.origins and self.rounds.is_exact

    async def _wait_for_weights(self, number: int) -> PublishedWeights:
        """Wait until the weights are recent enough for the player's next round."""
        self.stats.start_wait(number, self.clock.time())
        try:
            await self._weights_changed.wait_for(lambda: self.may_collect(self.rounds.round_of(number)))
        finally:
            self.stats.end_wait(number, self.clock.time())
        assert self.published is not None
        return self.published

    def may_collect(self, round_number: int | None) -> bool:
        """Return True if a player may begin a round: it will be trained on and the weights are recent enough.

        Args:
            round_number: the round; None if the player can't begin one.
        """
        if self.published is None or round_number is None:
            return False
        if self.counters.policy_steps >= self.config.run.total_steps and round_number >= self.rounds.added:
            return False  # but a lost round is collected again
        if self.stopping.is_set() and round_number > self.newest_requested:
            return False
        return round_number - self.published.version <= self.config.max_staleness

    async def _request_fragment(self, number: int, published: PublishedWeights, round_number: int) -> CollectedFragment:
        """Call `collect` of a player. Request its state too if it is due, or if a checkpoint may follow the round."""
        async with self.players.playing[number]:
            if number in self.players.leaving:
                await self.players.move(number)
            player = await self.players.get(number)
            mode: Mode = "random" if published.policy_steps < self.data.learning_starts else "explore"
            progress = min(1.0, published.policy_steps / self.config.run.total_steps)
            values = self.stats.env_changes.at(round_number) or None
            own = self.config.fragment_rows, published.weights, published.version, mode, progress, values
            request, origin = Request(*own), self.players.origins.get(number)
            is_due = origin is not None and self.saving.wants(number, len(origin.answered))
            may_checkpoint = self._may_checkpoint_after(self.rounds.last_round_of(number, published.version))
            info_ref, fragment = request.send(player, is_due or may_checkpoint, self._unsaved)
            info = await info_ref
            self._note_answer(number, request, info)
        return CollectedFragment(number, info, fragment, self.players.current[number], request, origin)

    def _note_answer(self, number: int, request: Request, info: FragmentInfo) -> None:
        """Note where a player stands after a fragment."""
        if self.players.keeps_origins and (message := self.saving.note(number, info)):
            self.reporter.message(message)
        self.players.keeps_origins &= not self.saving.why_not
        self.players.note_answer(number, request, info)
        if not self.saving.can_save(number):
            self.players.forget(number)
        if info.state is not None and number == self.config.num_players - 1:
            self._unsaved = info.unsaved  # the first player's reason may come from recording its episodes

    def _may_checkpoint_after(self, round_number: int) -> bool:
        """Return True if a checkpoint can be due at the end of a future round."""
        if self.checkpointing.wants_states_of(round_number):
            return True
        steps = self.counters.policy_steps
        most = steps + (round_number - self.rounds.added + 1) * self.config.round_rows
        every = self.config.checkpoint.every
        return most >= self.config.run.total_steps or (every is not None and most // every > steps // every)

    def _drop_player(self, number: int, error: Exception) -> None:
        """Count a player's failure and release the player.

        Raises:
            RunFailedError: the player exceeded its failure budget.
        """
        self.players.drop(number)
        self.counters.restarts += 1
        self.failures.count(f"player {number}", "replaced", error)

    def _report_player_back(self, number: int, seconds: float) -> None:
        """Report the first fragment after a loss and count the time since the loss."""
        self.stats.window.recovery += seconds
        self.failures.recovered(f"player {number}")
        self.reporter.message(f"player {number} is back: a fragment after {seconds:.1f} s")

    def _count_lost_shard(self, number: int, error: LostError) -> None:
        """Count the loss of a replay shard.

        Raises:
            RunFailedError: the shard exceeded its failure budget.
        """
        self.counters.buffer_restarts += 1
        self._shards_lost_at.setdefault(number, self.clock.time())
        self.failures.count(f"shard {number} of the replay", "replaced", error)

    def _report_restored_shard(self, number: int, lost: int, error: Exception | None) -> None:
        """Report how many rows a restored shard has lost."""
        seconds = self.clock.time() - self._shards_lost_at.pop(number)
        self.stats.window.recovery += seconds
        if error is not None:
            reason = f"shard {number} of the replay can't be restored from the checkpoint: {one_line(error)}"
            self.reporter.message(reason, "error")
        report = f"shard {number} of the replay is back after {seconds:.1f} s"
        if self.data.is_off_policy:  # a lost rollout is collected again
            report += f" without the {counted(lost, 'row')} that weren't saved" if lost else " with all its rows"
        self.reporter.message(report)

    def _report_fresh_start(self, number: int, reason: str) -> None:
        """Report that a player starts new episodes, because its environments can't be restored."""
        self.reporter.message(f"player {number} starts new episodes: {reason}")

    async def _republish(self, published: PublishedWeights) -> None:
        """Replace published weights that were lost with their node."""
        weights = await self.get_weights()
        if weights is not None and self.published is published:
            self.published = replace(published, weights=weights)

    # ------------------------------------------------------------------------------ after a round was added

    def _record_round(self, fragments: list[CollectedFragment], outcomes: list[AddOutcome]) -> int:
        """Count a round's fragments and store the players' states. Return the rows that the buffer accepted.

        Raises:
            RunFailedError: the buffer refused a fragment that the run depends on.
        """
        accepted = [each for each, error in zip(fragments, outcomes, strict=True) if error is None]
        lost: set[int] = set()
        for each in accepted:
            self.stats.record_fragment(each.info)
        for each, error in zip(fragments, outcomes, strict=True):
            if isinstance(error, (DataLostError, EarlierFragmentMissingError)):
                lost.add(each.player)
            else:
                self.adder.record_refusal(each.player, error)
        self.rounds.close()
        self._weights_changed.notify_all()  # a player whose fragment is in the buffer may begin another
        self._store_player_states(fragments, lost)
        return sum(each.info.rows for each in accepted)

    def _store_player_states(self, fragments: Sequence[CollectedFragment], lost: Collection[int]) -> None:
        """Store the players' states at the end of the round for a checkpoint, if they were requested.

        Args:
            fragments: fragments of the round.
            lost: players whose fragment isn't in the buffer. Their states would leave a gap.
        """
        states = dict(self.checkpointing.player_states)
        for each in fragments:
            states.pop(each.player, None)  # an older one doesn't belong to the rows in the buffer
            if each.info.state is not None and each.player not in lost:
                states[each.player] = PlayerState(each.incarnation, each.info.state)
        self.checkpointing.player_states = states
        reasons = [each.info.unsaved for each in fragments if each.info.unsaved]
        if reasons and not self._reported_unsaved:
            self._reported_unsaved = True
            self.reporter.message(f"a resume of this run would start new episodes: {reasons[0]}")
        size = sum(len(state.data) for state in self.checkpointing.player_states.values())
        if size >= LARGE_STATES and not self._reported_size:
            self._reported_size = True
            self.reporter.message(
                f"the state of the environments takes {byte_size(size)} in every checkpoint; "
                "checkpoint.envs=false leaves it out, but then a resumed run starts new episodes"
            )


def _listed(numbers: Sequence[int]) -> str:
    """Return the players of some numbers, for a message."""
    if len(numbers) == 1:
        return f"player {numbers[0]}"
    if len(numbers) > MOST_LISTED:
        return f"{counted(len(numbers), 'player')}"
    return f"players {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
