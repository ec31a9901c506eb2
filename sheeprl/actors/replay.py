"""The shared replay buffer as the run sees it: fragments in, flat blocks of batches out."""

from __future__ import annotations

from pathlib import Path

from sheeprl.actors.fragment import BufferStatus, Fragment
from sheeprl.buffer.flat import flatten, unflatten
from sheeprl.buffer.replay_buffer import ReplayBuffer
from sheeprl.buffer.storage import Rows
from sheeprl.buffer.streams import Slots

Writes = list[tuple[Slots, Rows]]


class Replay:
    """A thin shell that speaks NumPy, which crosses processes without a copy.

    Args:
        buffer: the buffer.
        batch_size: rows (or sequences) of a batch.
        shard: number of this part of the run's replay.
    """

    def __init__(self, buffer: ReplayBuffer, batch_size: int, shard: int = 0) -> None:
        self.buffer = buffer
        self.batch_size = batch_size
        self.shard = shard

    def add(self, fragment: Fragment) -> BufferStatus:
        """Copy a fragment in; one that came before is ignored."""
        rows = unflatten(fragment.rows, batch_dims=2)
        self.buffer.add(rows, (fragment.player, fragment.incarnation), fragment.sequence)
        return self.status()

    def status(self) -> BufferStatus:
        """What an add answers."""
        return BufferStatus(len(self.buffer), self.buffer.available >= max(1, self.batch_size))

    def sample(self, n_batches: int) -> Rows:
        """A block of batches."""
        return flatten(self.buffer.sample(self.batch_size, n_batches))

    def write_back(self, *writes: Writes) -> int:
        """Write what losses gave back into the sampled rows, one argument a rank; how many rows were still there."""
        return sum(
            self.buffer.write_back(index, unflatten(values, batch_dims=index.ndim))
            for rank in writes
            for index, values in rank
        )

    def save(self, folder: str) -> None:
        """Write the buffer into a folder of its own below `folder`."""
        self.buffer.save(Path(folder) / f"shard_{self.shard}")

    def load(self, folder: str) -> BufferStatus:
        """Take over what was saved."""
        self.buffer.load(Path(folder) / f"shard_{self.shard}")
        return self.status()
