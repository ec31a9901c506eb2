"""The replay as the run speaks to it: one or several shards, of which each may be lost and replaced.

Players are shared out over the shards by their numbers. Trainers draw from all of them: how many samples of a chunk
each shard serves is one multinomial draw by what the shards hold, and the learner puts the samples into an order of
its own, so that every place in a batch is filled by an independent draw from the whole. In coupled mode with several
ranks every rank has a part and draws its own share of the batch from it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from sheeprl.actors.handle import AllRanks, DataLostError, Handle, LostError, Ref, later
from sheeprl.actors.interfaces import Block, ReplayInterface
from sheeprl.actors.messages import BufferStatus, Fragment, Writes
from sheeprl.buffer.storage import RefusedFragmentError
from sheeprl.utils import seeding
from sheeprl.utils.errors import RunFailedError, one_line

Request = Callable[[Handle], Ref[BufferStatus]]
"""Calls a method that returns a shard's status; it is called again on the successor of a lost shard."""


@dataclass(frozen=True)
class PendingCall:
    """Something that a shard was asked for.

    Args:
        shard: its number.
        handle: who was asked.
        turn: how many calls to shards came before.
        answer: its status; where samples were asked for, that these are there.
        block: the samples.
        samples: how many samples these are.
    """

    shard: int
    handle: Handle
    turn: int
    answer: Ref[BufferStatus] | Ref[int]
    block: Ref[Block] | None = None
    samples: int = 0


@dataclass
class Chunk:
    """Batches for some gradient steps, on their way.

    Args:
        first: number of the first gradient step.
        steps: how many.
        progress: part of the run that has been played.
        parts: what the shards were asked for.
        order: seed of the order in which the learner puts the parts' samples; None where one part is the block.
    """

    first: int
    steps: int
    progress: float
    parts: list[PendingCall]
    order: int | None = None

    @property
    def blocks(self) -> list[Ref[Block]]:
        """What the learner is given."""
        return [part.block for part in self.parts if part.block is not None]


def _adding(fragment: Ref[Fragment]) -> Request:
    """Return the request that adds a fragment."""
    return lambda handle: handle.call(ReplayInterface.add, later(fragment))


def _restoring(folder: str | None) -> Request:
    """Return the request that restores a shard from the checkpoint in `folder`."""
    return lambda handle: handle.call(ReplayInterface.restore, folder)


def _give_up(shard: int, error: LostError) -> NoReturn:
    raise RunFailedError(f"the buffer failed: {one_line(error)}") from error


class ReplayClient:
    """All shards of the replay.

    Args:
        handles: of the shards, by number.
        batch_size: samples of a batch of the whole trainer group; 1 where everything stored is one.
        seed: `run.seed`.
        make_shard: handle of shard `number` in its `incarnation`, to replace one that was lost.
        together: where every rank draws from a part of its own: who calls them all.
    """

    def __init__(
        self,
        handles: Sequence[Handle],
        batch_size: int = 1,
        seed: int = 0,
        make_shard: Callable[[int, int], Handle] | None = None,
        together: Handle | None = None,
    ) -> None:
        self.handles = list(handles)
        self.batch_size, self.seed = batch_size, seed
        self.make_shard, self.together = make_shard, together
        self.incarnations = [0] * len(self.handles)
        self.statuses = [BufferStatus() for _ in self.handles]
        self._known = [-1] * len(self.handles)  # of which turn each status is
        self._turns = itertools.count()
        self.lost_counts: Counter[str] = Counter()  # of shards that were lost, as far as they were not kept
        self.newest_save: Callable[[], str | None] = lambda: None
        """Says where the replay is saved as a lost shard's successor is to take it over; None if nowhere."""
        self.on_loss: Callable[[int, LostError], None] = _give_up
        """Told of every shard that was lost and replaced, if it could be. What it raises ends what was being done."""
        self.on_back: Callable[[int, int, Exception | None], None] = lambda shard, lost, error: None
        """Told how many rows a lost shard's successor lacks; and of the error, if it couldn't read what was saved."""
        self._restoring: dict[int, asyncio.Task[None]] = {}

    # ---------------------------------------------------------------------------------------- what it holds

    @property
    def size(self) -> int:
        """Rows stored."""
        return sum(status.size for status in self.statuses)

    @property
    def available(self) -> int:
        """Distinct samples that can be drawn."""
        available = [status.available for status in self.statuses]
        return min(available) * len(available) if self.together else sum(available)

    @property
    def added(self) -> int:
        """Rows that were ever added and are not lost, those that were overwritten since among them."""
        return sum(status.added for status in self.statuses)

    @property
    def is_ready(self) -> bool:
        """Whether a batch can be drawn."""
        return self.available >= self.batch_size

    @property
    def batch_bytes(self) -> int:
        """Bytes of a batch; 0 while nothing is stored."""
        return self.batch_size * max(status.sample_bytes for status in self.statuses)

    @property
    def counts(self) -> Counter[str]:
        """What didn't go the usual way in all shards together, and how often."""
        counts = self.lost_counts.copy()
        for status in self.statuses:
            counts.update(status.counts)
        return counts

    # --------------------------------------------------------------------------------------------- the calls

    async def start(self) -> None:
        """Ask all shards what they hold."""
        await self._ask_all(list(enumerate(self.handles)), lambda handle: handle.call(ReplayInterface.status))

    async def save(self, folder: str, while_adding: bool = False) -> None:
        """Write all shards into `folder`, as they are now. Of one that is lost meanwhile, what its successor holds.

        Args:
            folder: for all of them.
            while_adding: others go on with adding meanwhile.

        Raises:
            LostError: a shard was lost `while_adding`, when its successor may already hold more.
        """

        def request(handle: Handle) -> Ref[BufferStatus]:
            return handle.call(ReplayInterface.save, folder)

        if not while_adding:
            return await self._ask_all(self._everybody(), request)
        asked = [self._ask(shard, handle, request) for shard, handle in self._everybody()]
        outcomes = await asyncio.gather(*map(self._answer, asked), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def load(self, folder: str) -> None:
        """Take over what was saved."""
        await self._ask_all(self._everybody(), lambda handle: handle.call(ReplayInterface.load, folder))

    async def _ask_all(self, shards: Sequence[tuple[int, Handle]], request: Request) -> None:
        asked = [self._ask(shard, handle, request) for shard, handle in shards]
        for each in asked:
            await self._insist(each, request)

    async def add(
        self, fragments: Mapping[int, Ref[Fragment]]
    ) -> dict[int, RefusedFragmentError | DataLostError | None]:
        """Put fragments, given by their players' numbers in the order of these, each into its player's shard.

        Returns:
            By player's number why its fragment wasn't taken: it was refused, or it is gone; None if it was taken.
        """
        asked = {}
        for player, fragment in fragments.items():
            shard = player % len(self.handles)
            asked[player] = self._ask(shard, self.handles[shard], _adding(fragment))
        return {player: await self._why_not(asked[player], fragment) for player, fragment in fragments.items()}

    async def _why_not(
        self, asked: PendingCall, fragment: Ref[Fragment]
    ) -> RefusedFragmentError | DataLostError | None:
        try:
            await self._insist(asked, _adding(fragment))
        except (RefusedFragmentError, DataLostError) as error:
            return error
        return None

    def request(self, first: int, steps: int, progress: float) -> Chunk:
        """Have batches for gradient steps `first` and following drawn. Only while it is ready.

        What is drawn depends on what the shards hold by the answers so far, and on `first`.
        """
        if len(self.handles) == 1 or self.together:
            whom = self.together or self.handles[0]
            return Chunk(first, steps, progress, [self._draw(0, whom, ReplayInterface.sample, steps, progress)])
        rng = self._generator(first)
        parts = self._share_out(rng, steps * self.batch_size, progress)
        return Chunk(first, steps, progress, parts, order=int(rng.integers(2**63)))

    async def wait_for(self, chunk: Chunk) -> bool:
        """Wait until a chunk has been drawn. What a lost shard owed is drawn again from the others.

        Returns:
            Whether the chunk is whole; not, if the shards that are left can't serve a batch.
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
        """Let the shards that served a chunk have what losses gave for its rows. One made since has none of these.

        Args:
            chunk: what was sampled.
            writes: every rank's.
        """
        served = {part.shard: part.handle for part in chunk.parts}
        asked = [
            self._ask(shard, handle, lambda handle: handle.call(ReplayInterface.write_back, later(writes)))
            for shard, handle in served.items()
        ]
        for each in asked:
            with suppress(LostError, DataLostError):  # the rows are gone, or what was to be written with them
                await self._answer(each)
            await self._restored(each.shard)

    # --------------------------------------------------------------------------------------------- who serves

    def _share_out(self, rng: np.random.Generator, samples: int, progress: float) -> list[PendingCall]:
        """Ask every shard for its part of the samples."""
        total_priority = np.array([status.total_priority for status in self.statuses])
        counts: npt.NDArray[np.int64] = rng.multinomial(samples, total_priority / total_priority.sum())
        return [
            self._draw(shard, self.handles[shard], ReplayInterface.sample_part, int(count), progress)
            for shard, count in enumerate(counts)
            if count
        ]

    def _draw_again(self, chunk: Chunk, part: PendingCall, losses: int) -> list[PendingCall]:
        """Ask for what a lost shard owed."""
        if chunk.order is None:  # it was the only one, and so is its successor
            return [self._draw(0, self.handles[0], ReplayInterface.sample, chunk.steps, chunk.progress)]
        return self._share_out(self._generator(chunk.first, losses), part.samples, chunk.progress)

    def _generator(self, *key: int) -> np.random.Generator:
        """Of a chunk's own, so that there is nothing to save."""
        return np.random.Generator(np.random.PCG64(seeding.sequence(self.seed, seeding.Role.SHARDS, *key)))

    def _everybody(self) -> list[tuple[int, Handle]]:
        return [(0, self.together)] if self.together else list(enumerate(self.handles))

    # ----------------------------------------------------------------------------------------------- asking

    def _ask(self, shard: int, handle: Handle, request: Request) -> PendingCall:
        return PendingCall(shard, handle, next(self._turns), request(handle))

    def _draw(
        self,
        shard: int,
        handle: Handle,
        method: Callable[[ReplayInterface, int, float], tuple[int, Block]],
        count: int,
        progress: float,
    ) -> PendingCall:
        answer, block = handle.call_pair(method, count, progress)
        return PendingCall(shard, handle, next(self._turns), answer, block, count)

    async def _answer(self, asked: PendingCall) -> None:
        """Take note of a shard's status.

        Raises:
            LostError: the shard is lost, and another has taken its place.
        """
        try:
            status = await asked.answer
        except LostError as error:
            if self._is_current(asked):
                self._replace(asked.shard, error)
            raise
        if not self._is_current(asked):
            raise LostError(f"shard {asked.shard} of the replay was replaced")
        # Who saves asks several shards at once and takes note of them in turn, by when others know more of some.
        if isinstance(status, BufferStatus) and asked.turn > self._known[asked.shard]:
            self.statuses[asked.shard], self._known[asked.shard] = status, asked.turn

    async def _insist(self, asked: PendingCall, request: Request) -> None:
        """Take note of a shard's status; if it is lost, ask the one that takes its place, in its turn."""
        with suppress(LostError):
            return await self._answer(asked)
        await self._restored(asked.shard)
        again = self._ask(asked.shard, self.handles[asked.shard], request)
        await self._insist(again, request)

    def _is_current(self, asked: PendingCall) -> bool:
        """Whether who was asked still has its place."""
        return asked.handle is self.together or asked.handle is self.handles[asked.shard]

    def _replace(self, shard: int, error: LostError) -> None:
        if self.make_shard is None:
            _give_up(shard, error)
        before = self.statuses[shard]
        self._make_anew(shard)
        self.statuses[shard] = BufferStatus(counts=before.counts, added=before.added)  # until it is known what is kept
        self.on_loss(shard, error)
        folder = self.newest_save()
        asked = self._ask(shard, self.handles[shard], _restoring(folder))  # before any other call
        self._restoring[shard] = asyncio.ensure_future(self._restore(asked, folder, before))

    def _make_anew(self, shard: int) -> None:
        assert self.make_shard is not None
        self.handles[shard].close()
        self.incarnations[shard] += 1
        self.handles[shard] = self.make_shard(shard, self.incarnations[shard])

    async def _restore(self, asked: PendingCall, folder: str | None, before: BufferStatus) -> None:
        """Wait until a lost shard's successor has what was kept; one that can't take it over is replaced by another."""
        shard, failure = asked.shard, None
        while True:
            try:
                await self._answer(asked)
                break
            except LostError:
                return  # another has its place, and restores what it can
            except Exception as error:
                if folder is None:
                    raise RunFailedError(f"the buffer failed: {one_line(error)}") from error
                newest = self.newest_save()
                failure, folder = (error, None) if newest == folder else (None, newest)  # it was removed meanwhile
                self._make_anew(shard)
                asked = self._ask(shard, self.handles[shard], _restoring(folder))
        kept = self.statuses[shard]
        self.lost_counts += Counter(before.counts) - Counter(kept.counts)
        self.on_back(shard, max(0, before.added - kept.added), failure)

    async def _restored(self, shard: int) -> None:
        """Wait until whoever has a shard's place has what was kept."""
        while (restoring := self._restoring.get(shard)) and not restoring.done():
            await asyncio.wait({restoring})
        if restoring:
            restoring.result()
