"""The driver's client of the replay, which consists of one or several shards. A lost shard is replaced.

Each player writes to one shard, chosen by the player's number. Trainers sample from all shards: one multinomial draw
over the shards' priorities sets how many samples of a chunk each shard serves. The learner then shuffles the samples,
so every place in a batch is an independent draw from the whole replay. In coupled mode with several ranks, each rank
holds one shard and samples its share of the batch from it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from sheeprl.actors.handle import AllRanks, DataLostError, Handle, LostError, Ref, later
from sheeprl.actors.interfaces import Block, ReplayInterface
from sheeprl.actors.messages import BufferStatus, Fragment, Writes
from sheeprl.buffer.fragments import EarlierFragmentMissingError, RefusedFragmentError
from sheeprl.utils import seeding
from sheeprl.utils.errors import RunFailedError, one_line

Request = Callable[[Handle], Ref[BufferStatus]]
"""Calls a method that returns a shard's status; it is called again on the successor of a lost shard."""
AddOutcome = RefusedFragmentError | EarlierFragmentMissingError | DataLostError | None
"""None for an added fragment, else the reason why it was refused, lost, or not added after a lost one."""


@dataclass(frozen=True)
class PendingCall:
    """A call to a shard whose result is pending.

    Args:
        shard: number of the shard.
        handle: handle that was called.
        turn: number of calls to shards before this one.
        answer: the shard's status, or the number of samples if samples were requested.
        block: the samples.
        samples: number of samples.
    """

    shard: int
    handle: Handle
    turn: int
    answer: Ref[BufferStatus] | Ref[int]
    block: Ref[Block] | None = None
    samples: int = 0


@dataclass
class Chunk:
    """Batches for some gradient steps, which the shards are sampling.

    Args:
        first: number of the first gradient step.
        steps: number of gradient steps.
        progress: progress of the run, from 0 to 1.
        parts: one pending call per shard that serves samples.
        order: seed with which the learner shuffles the samples; None if one part is the whole block.
    """

    first: int
    steps: int
    progress: float
    parts: list[PendingCall]
    order: int | None = None

    @property
    def blocks(self) -> list[Ref[Block]]:
        """Return the references to the samples, one per part."""
        return [part.block for part in self.parts if part.block is not None]


def _adding(fragment: Ref[Fragment], batch: int, place: int) -> Request:
    """Return the request that adds a fragment, at its place in a batch of a shard."""
    return lambda handle: handle.call(ReplayInterface.add, later(fragment), batch, place)


def _restoring(folder: str | None, initial: str | None) -> Request:
    """Return the request that restores a shard from the checkpoint in `folder`, or else with the initial rows."""
    return lambda handle: handle.call(ReplayInterface.restore, folder, initial)


def _give_up(shard: int, error: LostError) -> NoReturn:
    """Raise the error of a shard that can't be replaced."""
    raise RunFailedError(f"the buffer failed: {one_line(error)}") from error


class ReplayClient:
    """Client of all replay shards.

    Args:
        handles: handles of the shards, by number.
        batch_size: batch size of the whole trainer group; 1 if everything stored is one sample.
        seed: `run.seed`.
        make_shard: returns the handle of shard `number` in its `incarnation`; replaces a lost shard.
        together: handle that calls the shards of all ranks, if each rank samples from a separate shard.
    """

    def __init__(
        self,
        handles: Sequence[Handle],
        batch_size: int = 1,
        seed: int = 0,
        make_shard: Callable[[int, int], Handle] | None = None,
        together: Handle | None = None,
    ) -> None:
        """Store the handles of the shards."""
        self.handles = list(handles)
        self.batch_size, self.seed = batch_size, seed
        self.make_shard, self.together = make_shard, together
        self.incarnations = [0] * len(self.handles)
        self.statuses = [BufferStatus() for _ in self.handles]
        self._known = [-1] * len(self.handles)  # turn of the call that returned each status
        self._turns = itertools.count()
        self._batches = itertools.count()
        self.lost_counts: Counter[str] = Counter()  # counts of lost shards that their successors didn't restore
        self.newest_save: Callable[[], str | None] = lambda: None
        """Returns the folder of the newest saved replay, which restores lost shards; None if there is none."""
        self.on_loss: Callable[[int, LostError], None] = _give_up
        """Called after a lost shard is replaced. An exception that it raises ends the call that met the loss."""
        self.on_back: Callable[[int, int, Exception | None], None] = lambda shard, lost, error: None
        """Called with the number of rows that a successor didn't restore, and the error if the save is unreadable."""
        self._restoring: dict[int, asyncio.Task[None]] = {}
        self._initial: str | None = None  # folder of the rows of another run

    # ---------------------------------------------------------------------------------------- contents

    @property
    def size(self) -> int:
        """Number of stored rows."""
        return sum(status.size for status in self.statuses)

    @property
    def available(self) -> int:
        """Number of distinct samples that can be drawn."""
        available = [status.available for status in self.statuses]
        return min(available) * len(available) if self.together else sum(available)

    @property
    def added(self) -> int:
        """Number of rows added so far, including overwritten rows and without lost rows."""
        return sum(status.added for status in self.statuses)

    @property
    def is_ready(self) -> bool:
        """True if the replay holds enough samples for a batch."""
        return self.available >= self.batch_size

    @property
    def batch_bytes(self) -> int:
        """Size of a batch in bytes; 0 while the replay is empty."""
        return self.batch_size * max(status.sample_bytes for status in self.statuses)

    @property
    def capacity_bytes(self) -> int:
        """Size of the full replay in bytes; 0 while it is empty."""
        return sum(status.capacity_bytes for status in self.statuses)

    @property
    def counts(self) -> Counter[str]:
        """Counts of unusual events, such as late writes, summed over the shards."""
        counts = self.lost_counts.copy()
        for status in self.statuses:
            counts.update(status.counts)
        return counts

    # --------------------------------------------------------------------------------------------- calls

    async def start(self) -> None:
        """Fetch the status of all shards."""
        await self._request_all(list(enumerate(self.handles)), lambda handle: handle.call(ReplayInterface.status))

    async def save(self, folder: str, while_adding: bool = False) -> None:
        """Save all shards to `folder`. If a shard is lost during the save, its successor is saved.

        Args:
            folder: folder of the whole replay.
            while_adding: True if fragments are added during the save.

        Raises:
            LostError: a shard was lost `while_adding`; its successor may already hold newer rows.
        """

        def request(handle: Handle) -> Ref[BufferStatus]:
            """Start `Replay.save`."""
            return handle.call(ReplayInterface.save, folder)

        if not while_adding:
            return await self._request_all(self._all_shards(), request)
        pending = [self._send(shard, handle, request) for shard, handle in self._all_shards()]
        outcomes = await asyncio.gather(*map(self._answer, pending), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def load(self, folder: str) -> None:
        """Load all shards from `folder`."""
        await self._request_all(self._all_shards(), lambda handle: handle.call(ReplayInterface.load, folder))

    async def add_initial(self, folder: str) -> None:
        """Fill all shards with the rows of another run, saved in `folder`."""
        self._initial = folder
        await self._request_all(self._all_shards(), lambda handle: handle.call(ReplayInterface.add_initial, folder))

    async def _request_all(self, shards: Sequence[tuple[int, Handle]], request: Request) -> None:
        """Send a request to several shards at once, then wait for all of them."""
        pending = [self._send(shard, handle, request) for shard, handle in shards]
        for each in pending:
            await self._complete(each, request)

    async def add(self, fragments: Sequence[tuple[int, Ref[Fragment]]]) -> list[AddOutcome]:
        """Add fragments, each with the number of its player, to the players' shards in this order.

        Returns:
            For each fragment, the error if it was refused, lost, or not added after a lost one, else None.
        """
        pending, batch, places = [], next(self._batches), Counter[int]()
        for player, fragment in fragments:
            shard = player % len(self.handles)
            request = _adding(fragment, batch, places[shard])
            places[shard] += 1
            pending.append((self._send(shard, self.handles[shard], request), request))
        return [await self._why_not(*each) for each in pending]

    async def _why_not(self, pending: PendingCall, request: Request) -> AddOutcome:
        """Wait until a fragment is added; return the error if it isn't."""
        try:
            await self._complete(pending, request)
        except (RefusedFragmentError, EarlierFragmentMissingError, DataLostError) as error:
            return error
        return None

    def request(self, first: int, steps: int, progress: float) -> Chunk:
        """Start to sample batches for `steps` gradient steps from `first` on. Requires `is_ready`.

        The draw depends on the shards' last known status and on `first` only.
        """
        if len(self.handles) == 1 or self.together:
            handle = self.together or self.handles[0]
            return Chunk(first, steps, progress, [self._draw(0, handle, ReplayInterface.sample, steps, progress)])
        rng = self._generator(first)
        parts = self._share_out(rng, steps * self.batch_size, progress)
        return Chunk(first, steps, progress, parts, order=int(rng.integers(2**63)))

    async def wait_for(self, chunk: Chunk) -> bool:
        """Wait until a chunk is sampled. Samples of a lost shard are drawn again from all shards.

        Returns:
            True if the chunk is complete; False if the remaining shards can't serve a batch.
        """
        waiting, losses = deque(chunk.parts), 0
        chunk.parts = []
        while waiting:
            part = waiting.popleft()
            try:
                await self._answer(part)
                chunk.parts.append(part)
            except LostError:
                await self._restored(part.shard)
                if not self.is_ready:
                    return False
                losses += 1
                waiting += self._draw_again(chunk, part, losses)
        return True

    async def write_back(self, chunk: Chunk, writes: Ref[Writes] | AllRanks[Writes]) -> None:
        """Write values and priorities back into the rows of a chunk, on the shards that served it.

        A shard that replaced a lost one is skipped, since its rows differ.

        Args:
            chunk: chunk that was sampled.
            writes: reference to the writes, of one rank or of all ranks.
        """
        served = {part.shard: part.handle for part in chunk.parts}
        pending = [
            self._send(shard, handle, lambda handle: handle.call(ReplayInterface.write_back, later(writes)))
            for shard, handle in served.items()
        ]
        for each in pending:
            with suppress(LostError, DataLostError):  # the rows or the writes are lost
                await self._answer(each)
            await self._restored(each.shard)

    # --------------------------------------------------------------------------------------------- sampling

    def _share_out(self, rng: np.random.Generator, samples: int, progress: float) -> list[PendingCall]:
        """Draw how many samples each shard serves, and request them."""
        total_priority = np.array([status.total_priority for status in self.statuses])
        counts: npt.NDArray[np.int64] = rng.multinomial(samples, total_priority / total_priority.sum())
        return [
            self._draw(shard, self.handles[shard], ReplayInterface.sample_part, int(count), progress)
            for shard, count in enumerate(counts)
            if count
        ]

    def _draw_again(self, chunk: Chunk, part: PendingCall, losses: int) -> list[PendingCall]:
        """Request the samples of a lost shard again."""
        if chunk.order is None:  # there is one shard only
            return [self._draw(0, self.handles[0], ReplayInterface.sample, chunk.steps, chunk.progress)]
        return self._share_out(self._generator(chunk.first, losses), part.samples, chunk.progress)

    def _generator(self, *key: int) -> np.random.Generator:
        """Return a generator that depends on the seed and the chunk only, so it needs no saved state."""
        return np.random.Generator(np.random.PCG64(seeding.sequence(self.seed, seeding.Role.SHARDS, *key)))

    def _all_shards(self) -> list[tuple[int, Handle]]:
        """Return the numbers and handles to call in order to reach every shard."""
        return [(0, self.together)] if self.together else list(enumerate(self.handles))

    # ----------------------------------------------------------------------------------------------- requests

    def _send(self, shard: int, handle: Handle, request: Request) -> PendingCall:
        """Start a request to a shard."""
        return PendingCall(shard, handle, next(self._turns), request(handle))

    def _draw(
        self,
        shard: int,
        handle: Handle,
        method: Callable[[ReplayInterface, int, float], tuple[int, Block]],
        count: int,
        progress: float,
    ) -> PendingCall:
        """Start to sample `count` batches or samples from a shard."""
        answer, block = handle.call_pair(method, count, progress)
        return PendingCall(shard, handle, next(self._turns), answer, block, count)

    async def _answer(self, pending: PendingCall) -> None:
        """Wait for a call and store the shard's status.

        Raises:
            LostError: the shard was lost and replaced.
        """
        try:
            status = await pending.answer
        except LostError as error:
            if self._is_current(pending):
                self._replace(pending.shard, error)
            raise
        if not self._is_current(pending):
            raise LostError(f"shard {pending.shard} of the replay was replaced")
        # `save` waits for several shards in turn, so a later call may have returned a newer status before.
        if isinstance(status, BufferStatus) and pending.turn > self._known[pending.shard]:
            self.statuses[pending.shard], self._known[pending.shard] = status, pending.turn

    async def _complete(self, pending: PendingCall, request: Request) -> None:
        """Wait for a call; if the shard is lost, repeat the request on its successor."""
        with suppress(LostError):
            return await self._answer(pending)
        await self._restored(pending.shard)
        again = self._send(pending.shard, self.handles[pending.shard], request)
        await self._complete(again, request)

    def _is_current(self, pending: PendingCall) -> bool:
        """Return True if the called shard has not been replaced."""
        return pending.handle is self.together or pending.handle is self.handles[pending.shard]

    def _replace(self, shard: int, error: LostError) -> None:
        """Replace a lost shard and start to restore its rows."""
        if self.make_shard is None:
            _give_up(shard, error)
        before = self.statuses[shard]
        self._start_successor(shard)
        # Valid until the restore returns the actual status.
        self.statuses[shard] = BufferStatus(counts=before.counts, added=before.added)
        self.on_loss(shard, error)
        folder = self.newest_save()
        # before any other call
        pending = self._send(shard, self.handles[shard], _restoring(folder, self._initial))
        self._restoring[shard] = asyncio.ensure_future(self._restore(pending, folder, before))

    def _start_successor(self, shard: int) -> None:
        """Start the next incarnation of a shard."""
        assert self.make_shard is not None
        self.handles[shard].close()
        self.incarnations[shard] += 1
        self.handles[shard] = self.make_shard(shard, self.incarnations[shard])

    async def _restore(self, pending: PendingCall, folder: str | None, before: BufferStatus) -> None:
        """Wait until a successor has restored its rows; replace it if the restore fails."""
        shard, failure, initial = pending.shard, None, self._initial
        while True:
            try:
                await self._answer(pending)
                break
            except LostError:
                return  # its successor runs a separate restore
            except Exception as error:
                if folder is None and initial is None:
                    raise RunFailedError(f"the buffer failed: {one_line(error)}") from error
                newest = self.newest_save()
                # If the folder changed, a newer save has replaced it, and the error is not of that save.
                failure, folder, initial = (error, None, None) if newest == folder else (None, newest, initial)
                self._start_successor(shard)
                pending = self._send(shard, self.handles[shard], _restoring(folder, initial))
        restored = self.statuses[shard]
        self.lost_counts += Counter(before.counts) - Counter(restored.counts)
        self.on_back(shard, max(0, before.added - restored.added), failure)

    async def _restored(self, shard: int) -> None:
        """Wait until the shard's current incarnation has restored its rows."""
        while (restoring := self._restoring.get(shard)) and not restoring.done():
            await asyncio.wait({restoring})
        if restoring:
            restoring.result()
