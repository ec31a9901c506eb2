"""When checkpoints are due and who has to say what for them; `sheeprl.checkpoint` writes them.

A checkpoint is of the border between two rounds. What the learner and the replay hold there they say when they are
asked, since they carry out what they are asked in order. Players may be ahead by then, so they are asked for what they
hold together with the fragment that ends at the border: a round that may end with a checkpoint is known beforehand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from sheeprl.actors.handle import LostError, consume_exception
from sheeprl.driver.players import PlayerGroup, PlayerState
from sheeprl.driver.replay import ReplayClient
from sheeprl.driver.trainers import LearnerGroup, Snapshot
from sheeprl.metrics.counters import RunStats
from sheeprl.utils.errors import RunFailedError, one_line


class CheckpointStore(Protocol):
    """Keeps checkpoints."""

    def begin(self, policy_steps: int) -> str:
        """The folder in which a checkpoint is going to be written, made."""
        ...

    async def finish(
        self, folder: str, stats: Mapping[str, Any], snapshot: Snapshot, players: Mapping[int, PlayerState]
    ) -> None:
        """Make a whole checkpoint of a folder in which the replay has been saved, if it is to be."""
        ...

    def abandon(self, folder: str) -> None:
        """Remove what was begun."""
        ...

    @property
    def keeps_buffer(self) -> bool:
        """Whether the replay is to be saved in the folder."""
        ...

    @property
    def newest_buffer(self) -> str | None:
        """The replay as the newest whole checkpoint has it."""
        ...


class CheckpointScheduler:
    """Starts checkpoints when they are due.

    Args:
        store: stores checkpoints.
        stats: counters of the run.
        players: the group of all players.
        replay: client of the replay buffer.
        trainers: the trainer group.
        clock: returns the time in seconds, from any zero.
        seconds: time between checkpoints, in addition to those by policy steps; None for none by time.
    """

    def __init__(
        self,
        store: CheckpointStore,
        stats: RunStats,
        players: PlayerGroup,
        replay: ReplayClient,
        trainers: LearnerGroup,
        clock: Callable[[], float],
        seconds: float | None = None,
    ) -> None:
        self.store, self.stats, self.clock, self.seconds = store, stats, clock, seconds
        self.players, self.replay, self.trainers = players, replay, trainers
        self.kept: dict[int, PlayerState] = dict(players.kept)  # players' states at the border of the newest round
        self.overdue = False  # because somebody was lost while the one before was written
        # From which round on players' states are wanted, but for checkpoints by policy steps.
        self.from_round: int | None = None
        self.began = clock() - stats.counters.wall_time
        self._next = clock() + (seconds or 0.0)
        self._writing: asyncio.Task[None] | None = None

    def wants_states_of(self, round_number: int) -> bool:
        """Whether a checkpoint may come at the end of this round, whatever the policy steps are by then."""
        return self.from_round is not None and round_number >= self.from_round

    def is_due(self, newest_asked: int, added: int) -> bool:
        """Whether a checkpoint is due for another reason than policy steps, and a round has brought players' states.

        Args:
            newest_asked: the newest round that a player may have been asked for.
            added: rounds that are in the buffer.
        """
        by_clock = self.seconds is not None and self.clock() >= self._next
        if not by_clock and not self.overdue:
            return False
        if self.from_round is None:
            self.from_round = newest_asked + 1
        if added <= self.from_round:
            return False
        self.from_round, self.overdue = None, False
        self._next = self.clock() + (self.seconds or 0.0)
        return True

    async def begin(self, failed: Callable[[str], None]) -> None:
        """Have a checkpoint written while the run goes on; one that can't be written is told, and the run goes on too.

        Args:
            failed: is told why the checkpoint before couldn't be written.
        """
        await self.written(failed)
        self._writing = asyncio.ensure_future(self.write(while_playing=True))
        self._writing.add_done_callback(consume_exception)  # `written` tells, unless the run is given up before
        await asyncio.sleep(0)  # until everybody has been asked for what they hold now

    async def written(self, failed: Callable[[str], None]) -> None:
        """Wait for the checkpoint that is being written, if there is one."""
        writing, self._writing = self._writing, None
        if writing is not None:
            try:
                await writing
            except RunFailedError as error:
                failed(error.reason)

    async def write_last(self, idle: Sequence[int]) -> None:
        """Write the checkpoint that the run ends with.

        Args:
            idle: players that stand at the border of the newest round.

        Raises:
            RunFailedError: it can't be written.
        """
        self.kept |= await self.players.states([number for number in idle if number not in self.kept])
        await self.write()

    async def write(self, while_playing: bool = False, last_resort: bool = False) -> None:
        """Write a checkpoint of the border between two rounds.

        Args:
            while_playing: the run goes on meanwhile; if somebody is lost, the next border is as good.
            last_resort: of a run whose trainers may be lost: then of their last snapshot.

        Raises:
            RunFailedError: it can't be written, or learner or buffer failed.
        """
        if self.trainers.lacks_rollout:
            raise RunFailedError("no checkpoint could be written: the trainers lack a rollout that was lost")
        now = self.clock()
        self.stats.counters.wall_time = now - self.began
        stats, kept = self.stats.state_dict(now), self.kept
        asked, folder = self.trainers.take_snapshot(), ""
        try:
            folder = self.store.begin(self.stats.counters.policy_steps)
            if self.store.keeps_buffer:
                await self.replay.save(f"{folder}/buffer", while_playing)
            snapshot = await self._newest_snapshot(asked, last_resort)
            self.stats.window.checkpoint_stall += self.clock() - now
            stats["counters"]["gradient_steps"] = snapshot.gradient_steps  # who failed in an update knows better
            await self.store.finish(folder, stats, snapshot, kept)
        except Exception as error:
            if folder:
                self.store.abandon(folder)
            self.overdue = while_playing and isinstance(error, LostError)
            reason = f"no checkpoint could be written: {one_line(error)}"
            raise RunFailedError(reason, getattr(error, "trace", "")) from error

    async def _newest_snapshot(self, asked: Awaitable[Snapshot], last_resort: bool) -> Snapshot:
        """What was asked for; of lost trainers the one before, if the gradient steps since then will be owed."""
        try:
            return await asked
        except LostError:
            before = self.trainers.snapshot
            if not last_resort or before is None or self.trainers.keeps_updates:
                raise
            return before
