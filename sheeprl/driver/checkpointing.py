"""Schedule checkpoints and collect the workers' states for them. `sheeprl.checkpoint` writes them.

A checkpoint holds the run's state at the border between two rounds. The learner and the shards run their calls in
order, so a call at the border returns their state there. Players may be ahead by then. So a player returns its state
together with the fragment that ends at the border, in every round that may end with a checkpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sheeprl.actors.handle import LostError, consume_exception
from sheeprl.driver.players import PlayerGroup, PlayerState
from sheeprl.driver.replay import ReplayClient
from sheeprl.driver.trainers import LearnerGroup, Snapshot
from sheeprl.metrics.counters import RunStats
from sheeprl.utils.errors import RunFailedError, one_line

LONG = 2.0  # seconds from which a checkpoint counts as long


class CheckpointStore(Protocol):
    """Writes checkpoints and deletes old ones."""

    def begin(self, policy_steps: int) -> str:
        """Make and return the folder for a checkpoint."""
        ...

    def replay_place(self, folder: str) -> str:
        """Return where the shards save their rows for the checkpoint in a folder."""
        ...

    async def finish(
        self, folder: str, stats: Mapping[str, Any], snapshot: Snapshot, players: Mapping[int, PlayerState]
    ) -> None:
        """Complete the checkpoint in a folder, which holds the saved replay if `keeps_buffer` is true.

        Args:
            folder: folder of the checkpoint.
            stats: counters of the run.
            snapshot: state of agent and optimizers.
            players: states of the players, by number.
        """
        ...

    def abandon(self, folder: str) -> None:
        """Delete the folder of an incomplete checkpoint."""
        ...

    @property
    def keeps_buffer(self) -> bool:
        """True if checkpoints contain the replay."""
        ...

    @property
    def newest_buffer(self) -> str | None:
        """Folder of the replay in the newest complete checkpoint; None if there is none."""
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
        """Start the clock of the checkpoints by time."""
        self.store, self.stats, self.clock, self.seconds = store, stats, clock, seconds
        self.players, self.replay, self.trainers = players, replay, trainers
        self.player_states = dict(players.saved_states)  # at the border of the newest round, by number
        self.overdue = False  # a worker was lost while the last checkpoint was written
        # First round that returns the players' states for a checkpoint that isn't due by policy steps.
        self.from_round: int | None = None
        self.began = clock() - stats.counters.wall_time
        self._next = clock() + (seconds or 0.0)
        self._completed: float | None = None  # time of the newest checkpoint
        self._writing: asyncio.Task[None] | None = None
        self.rest = 0.0  # times the duration of a long checkpoint, until the next one that is due by policy steps
        self._rests_until = float("-inf")
        self._new_checkpoints: list[Path] = []

    def take_new_checkpoints(self) -> list[Path]:
        """Return the checkpoints that were completed since the last call."""
        taken, self._new_checkpoints = self._new_checkpoints, []
        return taken

    @property
    def age(self) -> float | None:
        """Return the seconds since the newest checkpoint of this process, None before the first one."""
        return None if self._completed is None else self.clock() - self._completed

    def wants_states_of(self, round_number: int) -> bool:
        """Return whether this round may end with a checkpoint that isn't due by policy steps."""
        return self.from_round is not None and round_number >= self.from_round

    def is_due(self, newest_requested: int, added: int) -> bool:
        """Return whether a checkpoint is due by time or overdue, and a round has returned the players' states.

        Args:
            newest_requested: newest round that was requested from a player.
            added: number of rounds in the buffer.
        """
        by_clock = self.seconds is not None and self.clock() >= self._next
        if self.is_resting or (not by_clock and not self.overdue):
            return False
        if self.from_round is None:
            self.from_round = newest_requested + 1
        if added <= self.from_round:
            return False
        self.from_round, self.overdue = None, False
        self._next = self.clock() + (self.seconds or 0.0)
        return True

    @property
    def is_resting(self) -> bool:
        """Return True if the last checkpoint took long and ended recently.

        With a thousand players, every round may pass a multiple of `checkpoint.every` steps.
        """
        return self.clock() < self._rests_until

    def postpone(self) -> None:
        """Write a checkpoint that is due by policy steps after the rest."""
        self.overdue = True

    async def begin(self, failed: Callable[[str], None]) -> None:
        """Start a checkpoint in the background. The run continues, also if the checkpoint fails.

        Args:
            failed: called with the reason if the previous checkpoint failed.
        """
        await self.written(failed)
        self._writing = asyncio.ensure_future(self.write(while_playing=True))
        self._writing.add_done_callback(consume_exception)  # `written` reports it, unless the run fails before
        await asyncio.sleep(0)  # until all states have been requested

    async def written(self, failed: Callable[[str], None]) -> None:
        """Wait for the checkpoint in the background, if there is one; call `failed` with the reason if it failed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            try:
                await writing
            except RunFailedError as error:
                if getattr(error.__cause__, "is_final", False):
                    raise
                failed(error.reason)

    async def write_last(self, idle: Sequence[int]) -> None:
        """Write the checkpoint that the run ends with.

        Args:
            idle: players that stand at the border of the newest round.

        Raises:
            RunFailedError: it can't be written.
        """
        missing = [number for number in idle if number not in self.player_states]
        self.player_states |= await self.players.states(missing)
        await self.write()

    async def write(self, while_playing: bool = False, last_resort: bool = False) -> None:
        """Write a checkpoint of the border between two rounds.

        Args:
            while_playing: True if the run continues; if a worker is lost, the checkpoint is retried at the next border.
            last_resort: True to use the last snapshot if the trainers are lost.

        Raises:
            RunFailedError: the checkpoint can't be written, or the learner or the buffer failed.
        """
        if self.trainers.rollout_lost:
            raise RunFailedError("no checkpoint could be written: a rollout was lost together with the trainers")
        now = self.clock()
        self.stats.counters.wall_time = now - self.began
        stats, player_states = self.stats.state_dict(now), self.player_states
        requested, folder = self.trainers.take_snapshot(), ""
        try:
            folder = self.store.begin(self.stats.counters.policy_steps)
            if self.store.keeps_buffer:
                await self.replay.save(self.store.replay_place(folder), while_playing)
            snapshot = await self._newest_snapshot(requested, last_resort)
            self.stats.window.checkpoint_stall += self.clock() - now
            # The counters miss the gradient steps of a failed update.
            stats["counters"]["gradient_steps"] = snapshot.gradient_steps
            await self.store.finish(folder, stats, snapshot, player_states)
            if (seconds := self.clock() - now) >= LONG:
                self._rests_until = self.clock() + self.rest * seconds
            self._completed = self.clock()
            self._new_checkpoints.append(Path(folder).parent / f"step_{stats['counters']['policy_steps']}")
        except Exception as error:
            if folder:
                self.store.abandon(folder)
            self.overdue = while_playing and isinstance(error, LostError)
            reason = f"no checkpoint could be written: {one_line(error)}"
            raise RunFailedError(reason, getattr(error, "trace", "")) from error

    async def _newest_snapshot(self, requested: Awaitable[Snapshot], last_resort: bool) -> Snapshot:
        """Return the requested snapshot. If the trainers are lost, return the one before as a last resort.

        Raises:
            LostError: the trainers are lost, and a resumed run couldn't repeat the gradient steps since the snapshot.
        """
        try:
            return await requested
        except LostError:
            before = self.trainers.snapshot
            if not last_resort or before is None or self.trainers.keeps_updates:
                raise
            return before
