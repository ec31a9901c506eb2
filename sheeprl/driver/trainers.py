"""The driver's client of the trainer group. A lost group is rebuilt from a snapshot.

A snapshot is the learner's whole state as one array. The driver holds it, so it survives the loss of the trainers'
nodes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sheeprl.actors.handle import Handle, Ref, consume_exception, later
from sheeprl.actors.interfaces import LearnerInterface
from sheeprl.actors.messages import UpdateInfo, Writes
from sheeprl.buffer.memmap import Array
from sheeprl.buffer.storage import Rows
from sheeprl.driver.replay import Chunk


@dataclass(frozen=True)
class Snapshot:
    """The state of agent and optimizers.

    Args:
        gradient_steps: gradient steps taken at the snapshot.
        data: `[bytes]` uint8, the result of `Learner.snapshot`.
    """

    gradient_steps: int
    data: Array


@dataclass
class Update:
    """Gradient steps that were requested from the group.

    Args:
        chunk: batches of the update.
        progress: progress of the run at the request, from 0 to 1.
        number: number of the update.
        answer: reference to the statistics of the update.
        writes: reference to the values to write back into the rows.
        noted: True if the run has counted the update.
    """

    chunk: Chunk
    progress: float
    number: int
    answer: Ref[UpdateInfo]
    writes: Ref[Writes]
    noted: bool = False


class LearnerGroup:
    """The trainer group.

    Args:
        handle: handle of the group.
        make: builds the group of an incarnation; None if a lost group can't be replaced.
        keeps_updates: True if updates since the last snapshot are stored, because their data can't be sampled again.
        warms_up: True if the group compiles its gradient step while players collect the first data.
    """

    def __init__(
        self,
        handle: Handle,
        make: Callable[[int], Awaitable[Handle]] | None = None,
        keeps_updates: bool = False,
        warms_up: bool = False,
    ) -> None:
        """Store the handle of the first group."""
        self.handle, self.make, self.warms_up = handle, make, warms_up
        self.keeps_updates = keeps_updates and make is not None
        self.incarnation = 0
        self.snapshot: Snapshot | None = None  # None: the initial state
        self.stored_updates: list[Update] = []
        self.rollout_lost = False  # a rollout was lost together with the trainers
        self._updates = 0  # number of requested updates
        self._warming_up: asyncio.Future[None] | None = None
        self._laid_out: tuple[Ref[int], Ref[Rows]] | None = None  # last result of `weights`

    async def restore(self, data: Array) -> None:
        """Restore the state of a checkpoint."""
        self.snapshot = Snapshot(await self.handle.call(LearnerInterface.restore, data), data)

    def warm_up(self) -> None:
        """Start the warm-up in the background."""
        if self.warms_up:
            self._warming_up = asyncio.ensure_future(self._warm_up(self.handle))
            self._warming_up.add_done_callback(consume_exception)

    @property
    def is_warming_up(self) -> bool:
        """Return whether a warm-up is in progress."""
        return self._warming_up is not None and not self._warming_up.done()

    async def warmed_up(self, on_wait: Callable[[], None] = lambda: None, patience: float = 0.0) -> None:
        """Wait until the warm-up has ended. If it failed, the next update raises.

        Args:
            on_wait: called if the wait takes longer than `patience`.
            patience: seconds.
        """
        if self._warming_up is not None:
            done, _ = await asyncio.wait({self._warming_up}, timeout=patience)
            if not done:
                on_wait()
                await asyncio.wait({self._warming_up})
            self._warming_up = None

    async def _warm_up(self, handle: Handle) -> None:
        """Wait for the warm-up of a group."""
        await handle.call(LearnerInterface.warm_up)

    def update(self, chunk: Chunk, progress: float) -> Update:
        """Request the gradient steps of a chunk."""
        answer, writes = self._start_update(chunk, progress)
        update = Update(chunk, progress, self._updates, answer, writes)
        self._updates += 1
        if self.keeps_updates:
            self.stored_updates.append(update)
        return update

    def _start_update(self, chunk: Chunk, progress: float) -> tuple[Ref[UpdateInfo], Ref[Writes]]:
        """Start `Learner.update`."""
        blocks = [later(block) for block in chunk.blocks]
        return self.handle.call_pair(LearnerInterface.update, chunk.steps, progress, chunk.order, *blocks)

    def give_up(self, update: Update) -> None:
        """Forget an update whose data was lost before any trainer used it."""
        if update in self.stored_updates:
            self.stored_updates.remove(update)

    def weights(self) -> tuple[Ref[int], Ref[Rows]]:
        """Return references to the number of gradient steps and to the policy weights.

        The first reference shows that the weights are available; players receive the second.
        """
        if self._laid_out is None or not self.is_warming_up:  # during the warm-up the last weights are still current
            self._laid_out = self.handle.call_pair(LearnerInterface.weights)
        return self._laid_out

    def take_snapshot(self) -> asyncio.Future[Snapshot]:
        """Start a snapshot of the state after all requested updates."""
        refs = self.handle.call_pair(LearnerInterface.snapshot)
        taking = asyncio.ensure_future(self._store_snapshot(self.handle, self._updates, refs))
        taking.add_done_callback(consume_exception)
        return taking

    async def _store_snapshot(self, handle: Handle, covered: int, refs: tuple[Ref[int], Ref[Array | None]]) -> Snapshot:
        """Store a snapshot when it arrives, and drop the updates that it covers.

        Args:
            handle: group that takes the snapshot.
            covered: number of updates that the snapshot covers.
            refs: results of `Learner.snapshot`.
        """
        made, state = refs
        gradient_steps, data = await made, await state
        assert data is not None  # rank 0 returns it
        snapshot = Snapshot(gradient_steps, data)
        if handle is self.handle and (not self.snapshot or snapshot.gradient_steps >= self.snapshot.gradient_steps):
            self.snapshot = snapshot
            self.stored_updates = [update for update in self.stored_updates if update.number >= covered]
        return snapshot

    async def rebuild(self) -> int:
        """Rebuild the group from the last snapshot and repeat the stored updates, which get new references.

        Returns:
            Gradient steps taken at the snapshot.

        Raises:
            LostError: the new group was lost, too.
        """
        assert self.make is not None
        self.handle.close()
        self._laid_out = None  # of the lost group
        self.incarnation += 1
        self.handle = await self.make(self.incarnation)
        # No await in between: other calls to the new group must come after these.
        restored = None if self.snapshot is None else self.handle.call(LearnerInterface.restore, self.snapshot.data)
        for update in self.stored_updates:
            update.answer, update.writes = self._start_update(update.chunk, update.progress)
        return 0 if restored is None else await restored

    def close(self) -> None:
        """Release the group."""
        self.handle.close()
