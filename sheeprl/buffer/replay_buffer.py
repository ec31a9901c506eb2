"""The replay buffer: TensorDicts in, TensorDicts out, rows in between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tensordict import TensorDict

from sheeprl.buffer.flat import flatten, unflatten
from sheeprl.buffer.samplers import Rollout, Sampler, Sequences, Transitions
from sheeprl.buffer.storage import Array, RefusedFragmentError, Rows, Slots, Storage, StreamKey


class ReplayBuffer:
    """Rows of many streams, and one way to sample them. Needs neither Ray nor the rest of SheepRL.

    As a replay it holds the newest `capacity` rows; as a rollout buffer, with `capacity = T * B` and the `Rollout`
    sampler, exactly the last round.

    Args:
        capacity: rows kept.
        sampler: what a sample is.
        seed: of the generator that samples are drawn with, which is part of the state.

    Example:
        >>> buffer = ReplayBuffer(100_000, Transitions(), seed=1)
        >>> buffer.add(fragment)                      # TensorDict [T + 1, B], the last row being the tail
        >>> batches = buffer.sample(256, n_batches=8)  # TensorDict [8, 256]
    """

    def __init__(self, capacity: int, sampler: Sampler | None = None, seed: int | np.random.SeedSequence = 0) -> None:
        self.storage = Storage(capacity)
        self.sampler = sampler or Transitions()
        self.rng = np.random.Generator(np.random.PCG64(seed))
        self._next_sequence: dict[StreamKey, int] = {}

    def __len__(self) -> int:
        return self.storage.size

    @property
    def ready(self) -> bool:
        """Whether `sample` can serve."""
        return self.sampler.ready(self.storage)

    @property
    def available(self) -> int:
        """How many distinct samples could be drawn now."""
        if isinstance(self.sampler, Sequences):
            return int(np.count_nonzero(self.sampler._starts(self.storage, np.arange(self.storage.size))))
        return self.storage.size if isinstance(self.sampler, Rollout) else self.storage.transitions

    @property
    def mass(self) -> float:
        """Its share among shards."""
        return float(self.available)

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample; 0 before the first fragment."""
        row = {name: values[0].nbytes for name, values in self.storage.rows.items()}
        if isinstance(self.sampler, Sequences):
            return (self.sampler.length + self.sampler.context) * int(sum(row.values()) + 8 * bool(row))
        obs = sum(size for name, size in row.items() if name == "obs" or name.startswith("obs/"))
        return int(sum(row.values()) + obs + 8 * bool(row))

    def add(self, fragment: TensorDict, stream: StreamKey = (0, 0), sequence: int | None = None) -> bool:
        """Copy a fragment in, behind what its stream brought before.

        Args:
            fragment: `[T + 1, B]` with `obs`, `action`, `reward`, `terminated`, `truncated`, `is_first` and whatever
                else the algorithm stores. Its last row is the tail, on which nothing was decided yet and which the
                next fragment's first row replaces.
            stream: (player, incarnation). A new incarnation begins new streams.
            sequence: number of the fragment in its stream. A number that was already added is ignored, so that a
                fragment may be sent twice; None takes the next one.

        Returns:
            Whether it was added.

        Raises:
            RefusedFragmentError: keys, shapes or dtypes differ from the first fragment's, the fragment exceeds the
                capacity, or some of it is not a finite number. Nothing is stored then.
        """
        expected = self._next_sequence.get(stream, 0)
        sequence = expected if sequence is None else sequence
        if sequence < expected or any(other[0] == stream[0] and other[1] > stream[1] for other in self._next_sequence):
            return False
        rows = flatten(fragment)
        if bad := [name for name, v in rows.items() if v.dtype.kind == "f" and not np.isfinite(v).all()]:
            raise RefusedFragmentError(f"player {stream[0]} sent {bad[0]} that is not finite")
        if sequence > expected:  # what came between is missing, so nothing follows the newest rows
            self.storage.close(stream)
        self.storage.add(stream, rows)
        self._next_sequence[stream] = sequence + 1
        return True

    def sample(self, batch_size: int, n_batches: int = 1) -> TensorDict:
        """Draw `n_batches` batches as one block, of the shape that the sampler says.

        Raises:
            NotEnoughDataError: what is stored can't serve it yet.
        """
        rows = self.draw(batch_size, n_batches)
        return unflatten(rows, batch_dims=rows["reward"].ndim)

    def draw(self, batch_size: int, n_batches: int = 1, progress: float = 0.0) -> Rows:
        """What `sample` gives, as flat arrays."""
        return self.sampler.draw(self.storage, self.rng, batch_size, n_batches)

    def update_priorities(self, index: Slots, priorities: Array) -> None:
        """Of no effect: samples are drawn uniformly."""

    def write_back(self, index: Slots, values: TensorDict) -> int:
        """Overwrite keys of sampled rows by their `index`; rows that have been overwritten since are left out.

        Returns:
            How many rows were still there.
        """
        return self.storage.write_back(index, flatten(values))

    # ------------------------------------------------------------------------------------- persistence

    def save(self, folder: Path) -> None:
        """Write rows, links, streams and generator into a folder, which is made."""
        folder.mkdir(parents=True)
        storage, size = self.storage, self.storage.size
        arrays = {f"row {name}": values[:size] for name, values in storage.rows.items()}
        arrays |= {f"tail {name}": values for name, values in storage.tails.items()}
        arrays |= {f"index {name}": values for name, values in storage.index_arrays(size).items()}
        files = {}
        for number, (name, values) in enumerate(arrays.items()):
            files[name] = f"{number:03d}.npy"
            np.save(folder / files[name], values, allow_pickle=False)
        state = {
            "capacity": storage.capacity,
            "storage": storage.book_keeping(),
            "next_sequence": [[*key, number] for key, number in self._next_sequence.items()],
            "rng": self.rng.bit_generator.state,
            "files": files,
        }
        (folder / "buffer.json").write_text(json.dumps(state))

    def load(self, folder: Path) -> None:
        """Take over what `save` wrote.

        Raises:
            ValueError: it was saved with another capacity.
        """
        state: dict[str, Any] = json.loads((folder / "buffer.json").read_text())
        if state["capacity"] != self.storage.capacity:
            raise ValueError(
                f"the saved buffer holds {state['capacity']} rows, this one {self.storage.capacity}; "
                f"use buffer.size={state['capacity']}"
            )
        arrays = {name: np.load(folder / file, allow_pickle=False) for name, file in state["files"].items()}
        self.storage = Storage(state["capacity"])
        self.storage.restore(state["storage"], arrays)
        self._next_sequence = {(player, life): number for player, life, number in state["next_sequence"]}
        self.rng.bit_generator.state = state["rng"]
