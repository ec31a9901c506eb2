"""The trainer group as the run speaks to it: it may be lost, and is built again from a snapshot.

A snapshot is the learner's whole state as one array. The driver holds it, so that it is in the memory of the driver's
node, wherever the trainers are.
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
        gradient_steps: that had been taken.
        data: `[bytes]` uint8, as `Learner.snapshot` gives it.
    """

    gradient_steps: int
    data: Array


@dataclass
class Update:
    """Gradient steps that the group was asked for.

    Args:
        chunk: what with.
        progress: part of the run that had been played.
        number: of the update.
        answer: what comes of them.
        writes: what is to be written back into the rows.
        noted: whether the run has taken note of them.
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
        handle: of the group.
        make: builds another group, given how many there were before; None if a lost one can't be replaced.
        keeps_updates: whether what was learned from since the last snapshot is kept, because it can't be drawn again.
        rehearses: whether it has something to do before there is data, while players bring the first.
    """

    def __init__(
        self,
        handle: Handle,
        make: Callable[[int], Awaitable[Handle]] | None = None,
        keeps_updates: bool = False,
        warms_up: bool = False,
    ) -> None:
        self.handle, self.make, self.warms_up = handle, make, warms_up
        self.keeps_updates = keeps_updates and make is not None
        self.incarnation = 0
        self.snapshot: Snapshot | None = None  # None: as a group is when it is made
        self.kept: list[Update] = []
        self.lacks_rollout = False  # whether one was lost together with the trainers that had learned from it
        self._asked = 0  # updates
        self._warming_up: asyncio.Future[None] | None = None
        self._laid_out: tuple[Ref[int], Ref[Rows]] | None = None  # what `weights` gave last

    async def restore(self, data: Array) -> None:
        """Take over the state of a checkpoint."""
        self.snapshot = Snapshot(await self.handle.call(LearnerInterface.restore, data), data)

    def warm_up(self) -> None:
        """Have it get ready for the first data. Nobody needs to wait for it."""
        if self.warms_up:
            self._warming_up = asyncio.ensure_future(self._warm_up(self.handle))
            self._warming_up.add_done_callback(consume_exception)

    async def warmed_up(self) -> None:
        """Wait until it is ready, or has failed, which it will say when it is asked for an update."""
        if self._warming_up is not None:
            await asyncio.wait({self._warming_up})
            self._warming_up = None

    async def _warm_up(self, handle: Handle) -> None:
        await handle.call(LearnerInterface.warm_up)

    def update(self, chunk: Chunk, progress: float) -> Update:
        """Have gradient steps taken."""
        answer, writes = self._start_update(chunk, progress)
        update = Update(chunk, progress, self._asked, answer, writes)
        self._asked += 1
        if self.keeps_updates:
            self.kept.append(update)
        return update

    def _start_update(self, chunk: Chunk, progress: float) -> tuple[Ref[UpdateInfo], Ref[Writes]]:
        blocks = [later(block) for block in chunk.blocks]
        return self.handle.call_pair(LearnerInterface.update, chunk.steps, progress, chunk.order, *blocks)

    def give_up(self, update: Update) -> None:
        """Don't ask for an update again: what it was to learn from is lost, and nobody has learned from it."""
        if update in self.kept:
            self.kept.remove(update)

    def weights(self) -> tuple[Ref[int], Ref[Rows]]:
        """Have the policy's weights laid out for the players: that they are, and the weights."""
        is_busy = self._warming_up is not None and not self._warming_up.done()
        if self._laid_out is None or not is_busy:  # else nothing has been learned since, and nobody answers for long
            self._laid_out = self.handle.call_pair(LearnerInterface.weights)
        return self._laid_out

    def take_snapshot(self) -> asyncio.Future[Snapshot]:
        """Have a snapshot taken, of what the group has been asked to learn so far. Nobody needs to wait for it."""
        asked = self.handle.call_pair(LearnerInterface.snapshot)
        taking = asyncio.ensure_future(self._keep_snapshot(self.handle, self._asked, asked))
        taking.add_done_callback(consume_exception)
        return taking

    async def _keep_snapshot(self, handle: Handle, covered: int, asked: tuple[Ref[int], Ref[Array | None]]) -> Snapshot:
        made, state = asked
        gradient_steps, data = await made, await state
        assert data is not None  # rank 0 returns it
        snapshot = Snapshot(gradient_steps, data)
        if handle is self.handle and (not self.snapshot or snapshot.gradient_steps >= self.snapshot.gradient_steps):
            self.snapshot = snapshot
            self.kept = [update for update in self.kept if update.number >= covered]
        return snapshot

    async def rebuild(self) -> int:
        """Build the group again from the last snapshot and let it take the kept updates, which get new answers.

        Returns:
            How many gradient steps the group had taken at the snapshot.

        Raises:
            LostError: the new one was lost as well.
        """
        assert self.make is not None
        self.handle.close()
        self.incarnation += 1
        self.handle = await self.make(self.incarnation)
        # All of this is asked at once: what somebody else asks of the new group comes after it.
        restored = None if self.snapshot is None else self.handle.call(LearnerInterface.restore, self.snapshot.data)
        for update in self.kept:
            update.answer, update.writes = self._start_update(update.chunk, update.progress)
        return 0 if restored is None else await restored

    def close(self) -> None:
        """Let go of the group."""
        self.handle.close()
