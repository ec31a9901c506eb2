"""A replay shard: add fragments, sample blocks of batches, save and restore."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sheeprl.actors.interfaces import ReplayInterface
from sheeprl.actors.messages import BufferStatus, Fragment, Write, Writes
from sheeprl.buffer import reshard
from sheeprl.buffer.fragments import FragmentOrder
from sheeprl.buffer.memmap import has_buffer, in_use, is_of_this_boot, remove_buffer
from sheeprl.buffer.places import place_of
from sheeprl.buffer.replay_buffer import ReplayBuffer
from sheeprl.buffer.storage import Rows
from sheeprl.config.schema import Config
from sheeprl.utils import seeding
from sheeprl.utils.profiling import Profiler, make_profiler, profiled

RELEASE_SECONDS = 30.0  # time for a killed process to release its files


class Replay(ReplayInterface):
    """A replay shard, whose arguments and results are NumPy arrays, which Ray shares between processes without a copy.

    The `index` of a sample numbers the rows of the whole replay. This shard owns the rows whose number modulo `shards`
    is `shard`.

    Args:
        buffer: buffer of the shard.
        batch_size: rows (or sequences) of a batch.
        shard: number of this shard.
        shards: number of shards.
        profiler: profiler of its calls; None to profile nothing.
    """

    def __init__(
        self,
        buffer: ReplayBuffer,
        batch_size: int,
        shard: int = 0,
        shards: int = 1,
        profiler: Profiler | None = None,
    ) -> None:
        """Store the buffer and the numbers."""
        self.buffer = buffer
        self.batch_size = batch_size
        self.shard, self.shards = shard, shards
        self.order = FragmentOrder()
        self.profiler = profiler or Profiler(None, f"replay {shard}", 0)

    @profiled
    def add(self, fragment: Fragment, batch: int | None = None, place: int = 0) -> BufferStatus:
        """Copy a fragment into the buffer; ignore one that was added before.

        Args:
            fragment: fragment of a player.
            batch: number of the fragments that are sent at once; None for a fragment without order.
            place: place of the fragment in the batch.

        Raises:
            EarlierFragmentMissingError: an earlier fragment of the batch was lost.
            RefusedFragmentError: the fragment's shapes don't match, or a value isn't finite.
        """
        self.order.check(batch, place)
        self.buffer.add_rows(fragment.rows, (fragment.player, fragment.incarnation), fragment.sequence)
        return self.status()

    def status(self) -> BufferStatus:
        """Return the status of the shard."""
        buffer = self.buffer
        return BufferStatus(
            len(buffer),
            buffer.available,
            buffer.total_priority,
            buffer.sample_bytes,
            asdict(buffer.counts),
            buffer.added,
            buffer.storage.capacity_bytes,
        )

    @profiled
    def sample(self, n_batches: int, progress: float) -> tuple[int, Rows]:
        """Sample a block of batches.

        Args:
            n_batches: number of batches.
            progress: progress of the run for schedules of sampling, from 0 to 1.

        Returns:
            Number of samples, which the driver reads, and the block, which it passes on.
        """
        return self._draw(self.batch_size, n_batches, progress)

    @profiled
    def sample_part(self, count: int, progress: float) -> tuple[int, Rows]:
        """Sample `count` samples as one batch; other shards contribute the rest of the batches."""
        return self._draw(count, 1, progress)

    def _draw(self, batch_size: int, n_batches: int, progress: float) -> tuple[int, Rows]:
        """Draw a block and number its rows in the whole replay."""
        rows = self.buffer.draw(batch_size, n_batches, progress)
        if "index" in rows:
            rows["index"] *= self.shards
            rows["index"] += self.shard
        return batch_size * n_batches, rows

    @profiled
    def write_back(self, *writes: Writes) -> BufferStatus:
        """Write values and priorities into this shard's rows that still exist. Each rank passes one argument."""
        for step in zip(*writes, strict=True):
            for write in step:
                self._write_own(write)
        return self.status()

    def _write_own(self, write: Write) -> None:
        """Write the values and priorities of the rows that this shard owns."""
        axis = write.index.ndim - 1  # sample axis; all rows of a sequence belong to one shard
        owner = (write.index if axis == 0 else write.index[-1]) % self.shards
        mine = np.flatnonzero(owner == self.shard)
        index = write.index.take(mine, axis) // self.shards
        rows = {name: values.take(mine, axis) for name, values in write.values.items()}
        self.buffer.write_back_rows(index, rows)
        if write.priority is not None and self.buffer.priorities:  # uniform sampling has no priorities
            self.buffer.update_priorities(index if axis == 0 else index[-1], write.priority[mine])

    def save(self, folder: str) -> BufferStatus:
        """Save the buffer in the shard's place below `folder`, which may be a URL."""
        place = place_of(folder, self.shard)
        place.discard()  # an incomplete save of a lost shard
        self.buffer.save(place)
        return self.status()

    def load(self, folder: str) -> BufferStatus:
        """Load the rows of a saved replay, which may have another number or size of shards."""
        here = reshard.Layout(self.shards, self.buffer.storage.capacity)
        if reshard.layout_of(folder) == here:
            self.buffer.load(place_of(folder, self.shard))
        else:
            reshard.load(self.buffer, folder, self.shard, self.shards)
        return self.status()

    def add_initial(self, folder: str) -> BufferStatus:
        """Add this shard's part of the rows that another run has saved, unless it has rows of players.

        Without those, files of a lost process may hold a part of the initial rows only.
        """
        if all(incarnation < 0 for incarnation in self.buffer.storage.streams.newest.values()):
            reshard.add_initial(self.buffer, folder, self.shard, self.shards)
        return self.status()

    def restore(self, folder: str | None, initial: str | None = None) -> BufferStatus:
        """Replace a lost shard: use the rows in its files, or else those of a checkpoint, or else the initial ones.

        The generator of the sampler isn't restored, so samples differ from those drawn after the checkpoint.

        Args:
            folder: folder of the newest checkpoint; None if there is none.
            initial: folder of the rows of another run that the run began with; None if there are none.

        Raises:
            DamagedSaveError: a file of the checkpoint is damaged. The shard is unusable then.
        """
        if folder is not None and not self.buffer.added:
            generator = self.buffer.rng.bit_generator.state
            self.load(folder)
            self.buffer.rng.bit_generator.state = generator
        elif folder is None and initial is not None:
            self.add_initial(initial)
        return self.status()


def build_replay(
    config: Config,
    shard: int = 0,
    shards: int = 1,
    incarnation: int = 0,
    folder: str | None = None,
    frame_stack: Mapping[str, int] | None = None,
) -> Replay:
    """Return a shard of the replay. In coupled mode each rank has one shard.

    Args:
        config: configuration of the run, resolved.
        shard: number of the shard.
        shards: number of shards.
        incarnation: number of earlier shards with this number.
        folder: folder of the memory-mapped shards; None for shards in memory.
        frame_stack: `Spaces.frame_stack` of the environment; None stores whole observations.

    Raises:
        BlockingIOError: another process uses the shard's files.
        FileExistsError: the folder holds the replay of another run.
    """
    data = config.algo.data()
    batch_parts = shards if config.is_coupled else 1  # each rank draws its part of a batch
    path = Path(folder) / f"shard_{shard}" if folder else None
    buffer = _open_buffer(config, shard, shards, incarnation, path, frame_stack or {})
    batch_size = (data.batch_size or 0) // batch_parts  # None for a rollout, which is read whole
    profiler = make_profiler(config.run.dir, config.log.profiled_rounds, f"replay {shard}", with_stack=True)
    return Replay(buffer, batch_size, shard, shards, profiler)


def _open_buffer(
    config: Config, shard: int, shards: int, incarnation: int, folder: Path | None, frame_stack: Mapping[str, int]
) -> ReplayBuffer:
    """Return a new buffer, or the one that a lost process left in the folder."""
    data, settings = config.algo.data(), config.buffer
    assert settings.size is not None
    capacity = settings.size // shards
    seed = seeding.sequence(config.run.seed, seeding.Role.BUFFER, shard, incarnation)
    options: dict[str, Any] = {
        "prioritized": data.prioritized,
        "online_fraction": settings.online_fraction,
        "non_finite": settings.non_finite,
        "frame_stack": frame_stack,
    }
    if folder is None or not has_buffer(folder):
        return ReplayBuffer(capacity, data.sampler, seed, memmap=folder, **options)
    if not incarnation and not config.run.resume:
        raise FileExistsError(f"{folder} holds the replay of another run; use another buffer.dir")
    _wait_for_release(folder)
    if config.run.resume == "auto" and not incarnation:  # of an attempt that ended before its first checkpoint
        remove_buffer(folder)
    elif not is_of_this_boot(folder):
        if not settings.checkpoint:
            raise FileExistsError(
                f"{folder} was written on another machine or before its restart, so its rows may be torn, and "
                "buffer.checkpoint=false has no others; remove it to go on with an empty replay"
            )
        remove_buffer(folder)
    if not has_buffer(folder):
        return ReplayBuffer(capacity, data.sampler, seed, memmap=folder, **options)
    buffer = ReplayBuffer.attach(folder, capacity, data.sampler, seed, **options)
    if not incarnation:  # the players of a resumed run go on from its checkpoint, which may be older than the rows
        buffer.expect_restarts()
    return buffer


def _wait_for_release(folder: Path) -> None:
    """Wait until no process uses the folder, at most `RELEASE_SECONDS`. A killed process may still hold its files."""
    until = time.monotonic() + RELEASE_SECONDS
    while in_use(folder) and time.monotonic() < until:
        time.sleep(0.1)
