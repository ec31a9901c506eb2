"""A shard of the replay as the run sees it, and what the trainers make of what the shards send."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sheeprl.actors.interfaces import ReplayInterface
from sheeprl.actors.messages import BufferStatus, Fragment, Write, Writes
from sheeprl.buffer import reshard
from sheeprl.buffer.memmap import has_buffer, in_use
from sheeprl.buffer.replay_buffer import ReplayBuffer
from sheeprl.buffer.storage import Rows
from sheeprl.config.schema import Config
from sheeprl.utils import seeding

LET_GO = 30.0  # seconds that a process that was killed may take to let go of its files


class Replay(ReplayInterface):
    """A thin shell that speaks NumPy, which crosses processes without a copy: fragments in, blocks of batches out.

    The `index` of what it samples names rows of the whole replay: this shard's are those that are its number modulo
    the number of shards.

    Args:
        buffer: the buffer.
        batch_size: rows (or sequences) of a batch.
        shard: number of this part of the run's replay.
        shards: how many parts there are.
    """

    def __init__(self, buffer: ReplayBuffer, batch_size: int, shard: int = 0, shards: int = 1) -> None:
        self.buffer = buffer
        self.batch_size = batch_size
        self.shard, self.shards = shard, shards

    def add(self, fragment: Fragment) -> BufferStatus:
        """Copy a fragment in; one that came before is ignored.

        Raises:
            RefusedFragmentError: it doesn't fit, or isn't finite.
        """
        self.buffer.add_rows(fragment.rows, (fragment.player, fragment.incarnation), fragment.sequence)
        return self.status()

    def status(self) -> BufferStatus:
        """What everything is answered with."""
        buffer = self.buffer
        return BufferStatus(
            len(buffer),
            buffer.available,
            buffer.total_priority,
            buffer.sample_bytes,
            asdict(buffer.counts),
            buffer.added,
        )

    def sample(self, n_batches: int, progress: float) -> tuple[int, Rows]:
        """A block of batches.

        Args:
            n_batches: how many.
            progress: part of the run that has been played, from 0 to 1, for schedules of sampling.

        Returns:
            How many samples these are, which the run looks at, and the block, which it passes on.
        """
        return self._draw(self.batch_size, n_batches, progress)

    def sample_part(self, count: int, progress: float) -> tuple[int, Rows]:
        """`count` samples for batches to which other shards bring the rest, as if they were one batch."""
        return self._draw(count, 1, progress)

    def _draw(self, batch_size: int, n_batches: int, progress: float) -> tuple[int, Rows]:
        rows = self.buffer.draw(batch_size, n_batches, progress)
        if "index" in rows:
            rows["index"] *= self.shards
            rows["index"] += self.shard
        return batch_size * n_batches, rows

    def write_back(self, *writes: Writes) -> BufferStatus:
        """Keep what losses gave, one argument a rank, where it is for this shard and the rows are still there."""
        for rank in writes:
            for write in rank:
                self._keep(write)
        return self.status()

    def _keep(self, write: Write) -> None:
        axis = write.index.ndim - 1  # along which samples differ; a sequence is of one shard
        owner = (write.index if axis == 0 else write.index[-1]) % self.shards
        mine = np.flatnonzero(owner == self.shard)
        index = write.index.take(mine, axis) // self.shards
        rows = {name: values.take(mine, axis) for name, values in write.values.items()}
        self.buffer.write_back_rows(index, rows)
        if write.priority is not None and self.buffer.priorities:  # of no effect where samples are drawn uniformly
            self.buffer.update_priorities(index if axis == 0 else index[-1], write.priority[mine])

    def save(self, folder: str) -> BufferStatus:
        """Write the buffer into a folder of its own below `folder`."""
        path = self._folder(folder)
        shutil.rmtree(path, ignore_errors=True)  # of a shard that was lost while it saved
        self.buffer.save(path)
        return self.status()

    def load(self, folder: str) -> BufferStatus:
        """Take over what was saved, be it in as many shards of this size or in others."""
        here = reshard.Layout(self.shards, self.buffer.storage.capacity)
        if reshard.layout_of(Path(folder)) == here:
            self.buffer.load(self._folder(folder))
        else:
            reshard.load(self.buffer, Path(folder), self.shard, self.shards)
        return self.status()

    def restore(self, folder: str | None) -> BufferStatus:
        """Take a lost shard's place, with the rows that lie in its files, or else with those of a checkpoint.

        Samples are drawn anew, not again as they were after the checkpoint.

        Args:
            folder: of the newest checkpoint; None if there is none.

        Raises:
            DamagedSaveError: a file of it isn't as it was written. The shard is of no use then.
        """
        if folder is not None and not self.buffer.added:
            drawing = self.buffer.rng.bit_generator.state
            self.load(folder)
            self.buffer.rng.bit_generator.state = drawing
        return self.status()

    def _folder(self, folder: str) -> Path:
        return Path(folder) / f"shard_{self.shard}"


def build_replay(
    config: Config, shard: int = 0, shards: int = 1, incarnation: int = 0, folder: str | None = None
) -> Replay:
    """The replay, or one of its shards, which in coupled mode are the ranks' parts.

    Args:
        config: the run's configuration, resolved.
        shard: its number.
        shards: how many there are.
        incarnation: how often it has been replaced.
        folder: where the shards are mapped from, if they are.

    Raises:
        BlockingIOError: another process uses the shard's files.
    """
    data = config.algo.data()
    drawn_alone = shards if config.is_coupled else 1  # each rank draws its share of a batch
    buffer = _open_buffer(config, shard, shards, incarnation, Path(folder) / f"shard_{shard}" if folder else None)
    return Replay(buffer, (data.batch_size or 0) // drawn_alone, shard, shards)  # a rollout is read whole


def _open_buffer(config: Config, shard: int, shards: int, incarnation: int, folder: Path | None) -> ReplayBuffer:
    """A new buffer, or the one that a process which was lost has left in the folder."""
    data, settings = config.algo.data(), config.buffer
    assert settings.size is not None
    capacity = settings.size // shards
    seed = seeding.sequence(config.run.seed, seeding.Role.BUFFER, shard, incarnation)
    how: dict[str, Any] = {
        "prioritized": data.prioritized,
        "online_fraction": settings.online_fraction,
        "non_finite": settings.non_finite,
    }
    if folder is None or not has_buffer(folder):
        return ReplayBuffer(capacity, data.sampler, seed, memmap=folder, **how)
    if not incarnation and not config.run.resume:
        raise FileExistsError(f"{folder} holds the replay of another run; use another buffer.dir")
    _wait_for(folder)
    return ReplayBuffer.attach(folder, capacity, data.sampler, seed, **how)


def _wait_for(folder: Path) -> None:
    """Give a process that was killed the time to let go of its files."""
    until = time.monotonic() + LET_GO
    while in_use(folder) and time.monotonic() < until:
        time.sleep(0.1)
