"""The replay buffer: it stores fragments of arrival rows and samples them.

An *arrival row* is dm_env's `TimeStep`, as in DreamerV3: an observation, the reward and the discount (here
`terminated`) on arrival, FIRST (`is_first`) and LAST (`terminated` or `truncated`). The action taken there is added.

PyTorch is imported only for TensorDicts. A replay shard uses arrays, so it starts without PyTorch.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sheeprl.buffer.anchors import draw_anchors, put_newest
from sheeprl.buffer.finite import why_not_finite
from sheeprl.buffer.fragments import PRIORITY, RefusedFragmentError, check_priorities
from sheeprl.buffer.memmap import InMemory, MemoryMapped
from sheeprl.buffer.online import Newest
from sheeprl.buffer.places import Folder, Place
from sheeprl.buffer.priorities import Priorities, Prioritized, normalize_importance
from sheeprl.buffer.sampler import Sampler
from sheeprl.buffer.samplers import Transitions
from sheeprl.buffer.saving import Saver
from sheeprl.buffer.storage import Extension, NotEnoughDataError, Rows, Storage
from sheeprl.buffer.streams import Slots, StreamKey
from sheeprl.utils.text import counted

if TYPE_CHECKING:
    from tensordict import TensorDict

NonFinite = Literal["refuse", "keep"]


@dataclass
class Counts:
    """Counts of exceptional events and rows.

    Args:
        repeated: ignored fragments that were added before or belong to a replaced incarnation.
        gaps: fragments added after lost fragments of their stream.
        refused: refused fragments.
        non_finite: stored fragments with rewards or observations that are not finite.
        late_writes: rows evicted before a write back to them.
        late_priorities: rows evicted before an update of their priority.
        initial_rows: rows of another run that the buffer began with.
    """

    repeated: int = 0
    gaps: int = 0
    refused: int = 0
    non_finite: int = 0
    late_writes: int = 0
    late_priorities: int = 0
    initial_rows: int = 0


class ReplayBuffer:
    """Rows of many streams and a sampler. It needs neither Ray nor the rest of SheepRL.

    A replay buffer holds the newest `capacity` rows. A rollout buffer is a replay buffer with `capacity = T * B` and
    the `Rollout` sampler: it holds the last rollout.

    Args:
        capacity: maximum number of stored rows.
        sampler: sampler of the rows; None samples transitions.
        seed: seed of the generator that draws samples. The generator is part of the state.
        prioritized: draw by priority; None draws uniformly.
        online_fraction: fraction of each batch drawn from the newest samples, each once. The rest of the batch, and
            what the newest samples do not fill, is drawn as usual.
        non_finite: refuse or keep fragments with rewards or observations that are not finite.
        frame_stack: by flat key such as `obs/pixels`, the frames of an observation in a sample, along its first axis,
            oldest first. Fragments hold the newest frame only, so that each frame is stored once. At the beginning of
            an episode the first frame is repeated.
        memmap: folder for memory-mapped files, which may be larger than the memory. After a kill, `attach` recovers
            the rows. None stores the rows in memory.

    Raises:
        ValueError: an argument is invalid, or conflicts with another one.
        FileExistsError: the folder holds a buffer.
        BlockingIOError: another process uses the folder.

    Example:
        >>> buffer = ReplayBuffer(100_000, Transitions(), seed=1)
        >>> buffer.add(fragment)                      # TensorDict [T + 1, B]; the last row is the bootstrap row
        >>> batches = buffer.sample(256, n_batches=8)  # TensorDict [8, 256]
    """

    def __init__(
        self,
        capacity: int,
        sampler: Sampler | None = None,
        seed: int | np.random.SeedSequence = 0,
        *,
        prioritized: Prioritized | None = None,
        online_fraction: float = 0.0,
        non_finite: NonFinite = "refuse",
        frame_stack: Mapping[str, int] | None = None,
        memmap: Path | str | None = None,
    ) -> None:
        """Build the storage and the sampler."""
        self._set_up(sampler, seed, prioritized, online_fraction, non_finite)
        if capacity < 1:  # before files are created
            raise ValueError(f"capacity={capacity}: must be at least 1")
        if wrong := [name for name, frames in (frame_stack or {}).items() if frames < 1 or not _is_observation(name)]:
            raise ValueError(f"frame_stack={frame_stack}: {wrong[0]} must be an observation with at least 1 frame")
        memory = MemoryMapped(Path(memmap)) if memmap else InMemory()
        self.storage = Storage(capacity, memory, self._extensions(), frame_stack)
        self._saver = Saver(self.storage)

    def _set_up(
        self,
        sampler: Sampler | None,
        seed: int | np.random.SeedSequence,
        prioritized: Prioritized | None,
        online_fraction: float,
        non_finite: NonFinite,
    ) -> None:
        """Validate and store everything apart from the storage.

        Raises:
            ValueError: an argument is invalid, or conflicts with another one.
        """
        self._sampler: Sampler = sampler or Transitions()
        if not 0 <= online_fraction <= 1:
            raise ValueError(f"online_fraction={online_fraction}: must be from 0 to 1")
        if not self._sampler.anchored and (prioritized or online_fraction):
            raise ValueError(
                f"{self._sampler} draws its own samples; use neither prioritized nor online_fraction with it"
            )
        if prioritized and online_fraction:
            raise ValueError(
                f"online_fraction={online_fraction} can't be combined with prioritized, since the newest samples "
                "have no importance weights; use one of the two"
            )
        self.rng = np.random.Generator(np.random.PCG64(seed))
        self.priorities = Priorities(prioritized, self._sampler.decides) if prioritized else None
        self.online_fraction = online_fraction
        self.non_finite = non_finite
        self._restarting: set[int] = set()  # players whose next fragment begins new streams, see `expect_restarts`
        self.counts = Counts()
        self._newest = Newest()

    def _extensions(self) -> tuple[Extension, ...]:
        """Return the extensions of the sampler and the priorities."""
        return (*self._sampler.extensions(), *((self.priorities,) if self.priorities else ()))

    @classmethod
    def attach(
        cls,
        memmap: Path | str,
        capacity: int,
        sampler: Sampler | None = None,
        seed: int | np.random.SeedSequence = 0,
        *,
        prioritized: Prioritized | None = None,
        online_fraction: float = 0.0,
        non_finite: NonFinite = "refuse",
        frame_stack: Mapping[str, int] | None = None,
    ) -> ReplayBuffer:
        """Attach a memory-mapped buffer whose process ended or was killed. All complete fragments are recovered.

        A fragment whose `add` was interrupted is lost and may be sent again. Use a new seed, or samples repeat: only
        `save` and `load` restore the generator.

        Raises:
            FileNotFoundError: the folder holds no buffer.
            BlockingIOError: another process uses the folder.
            ValueError: the buffer is damaged, or was created with another capacity or other sampling.
        """
        buffer = cls.__new__(cls)
        buffer._set_up(sampler, seed, prioritized, online_fraction, non_finite)
        memory = MemoryMapped(Path(memmap), attach=True)
        try:
            buffer.storage = Storage(capacity, memory, buffer._extensions(), frame_stack)
            buffer.storage.reattach()
        except BaseException:
            memory.close()
            raise
        buffer._newest = Newest(buffer.storage.total)  # the rows drawn before are unknown
        buffer._saver = Saver(buffer.storage)
        return buffer

    def __len__(self) -> int:
        """Return the number of stored rows."""
        return self.storage.size

    @property
    def sampler(self) -> Sampler:
        """Return the sampler."""
        return self._sampler

    @sampler.setter
    def sampler(self, sampler: Sampler) -> None:
        """Set the sampler.

        Raises:
            ValueError: the sampler needs extensions, or does not match the priorities or `online_fraction`.
        """
        if extensions := sampler.extensions():
            raise ValueError(
                f"{sampler} needs {type(extensions[0]).__name__}, which this buffer doesn't maintain; "
                "create a buffer with this sampler"
            )
        if self.online_fraction and not sampler.anchored:
            raise ValueError(f"{sampler} draws its own samples; create a buffer with online_fraction=0 for it")
        if self.priorities and (not sampler.anchored or sampler.decides != self.priorities.decides):
            raise ValueError(f"the priorities belong to {self._sampler}; create a buffer with {sampler}")
        self._sampler = sampler

    @property
    def available(self) -> int:
        """Return the number of distinct samples."""
        return self._sampler.available(self.storage) if self.storage.rows else 0

    @property
    def added(self) -> int:
        """Return the number of rows ever added."""
        return self.storage.added

    @property
    def total_priority(self) -> float:
        """Return the weight of this buffer among several: the sum of priorities, or `available` if uniform."""
        return self.priorities.total_priority if self.priorities else float(self.available)

    @property
    def sample_bytes(self) -> int:
        """Return the approximate size of a sample in bytes, 0 if the buffer never held a row."""
        return self._sampler.rows_per_sample(self.storage) * self.storage.row_bytes if self.storage.rows else 0

    # ------------------------------------------------------------------------------------------ adding

    def add(self, fragment: TensorDict, stream: StreamKey = (0, 0), sequence: int | None = None) -> bool:
        """Append a copy of a fragment to its streams.

        Args:
            fragment: `[T + 1, B]` with `obs`, `action`, `reward`, `terminated`, `truncated`, `is_first` and the extra
                keys of the algorithm. Its last row is the bootstrap row, which has no action yet. The first row of the
                next fragment replaces it. With prioritized sampling, the key `priority` sets the priorities of the new
                rows; without it they get the highest one so far.
            stream: (player, incarnation). A new incarnation begins new streams.
            sequence: sequence number of the fragment in its stream; None uses the next one. A number that was already
                added is ignored, so a fragment may be sent twice. A skipped number begins new streams.

        Returns:
            True if the fragment was added.

        Raises:
            RefusedFragmentError: keys, shapes or dtypes differ from those of the first fragment, the fragment exceeds
                the capacity, or a value is not finite. Nothing is stored.
            NoRoomError: there is no room for the buffer.
        """
        from sheeprl.buffer.tensordicts import flatten

        return self.add_rows(flatten(fragment), stream, sequence)

    def add_rows(self, fragment: Rows, stream: StreamKey = (0, 0), sequence: int | None = None) -> bool:
        """Append a copy of a fragment of flat arrays, as `add` does."""
        restarts = stream[0] in self._restarting
        expected = (sequence or 0) if restarts else self.storage.streams.expected_sequence(stream)
        if expected is None or (sequence is not None and sequence < expected):
            self.counts.repeated += 1
            return False
        sequence = expected if sequence is None else sequence
        is_gap = sequence > expected
        initial = fragment.get(PRIORITY) if self.priorities else None
        if initial is not None:
            fragment = {name: values for name, values in fragment.items() if name != PRIORITY}
        try:
            if (found := why_not_finite(fragment)) is not None:
                if self.non_finite == "refuse":
                    raise RefusedFragmentError(found)
                self.counts.non_finite += 1
            if initial is not None:
                check_priorities(initial, fragment)
            self.storage.add(stream, fragment, sequence, new_streams=is_gap or restarts)
        except RefusedFragmentError:
            self.counts.refused += 1
            raise
        self._restarting.discard(stream[0])
        self.counts.gaps += is_gap and expected > 0
        if self.priorities and initial is not None:
            rows = initial[:-1].ravel()
            self.priorities.update(self.storage, np.arange(self.storage.total - len(rows), self.storage.total), rows)
        return True

    # ---------------------------------------------------------------------------------------- sampling

    def sample(self, batch_size: int, n_batches: int = 1, progress: float = 0.0) -> TensorDict:
        """Draw batches as one block, whose shape depends on the sampler.

        Args:
            batch_size: samples per batch.
            n_batches: number of batches.
            progress: fraction of the training done, from 0 to 1, for the schedule of beta.

        Raises:
            NotEnoughDataError: there are fewer than `batch_size` distinct samples.
        """
        from sheeprl.buffer.tensordicts import unflatten

        available = self.available
        if 0 < available < batch_size and not self._sampler.takes_all:
            raise NotEnoughDataError(
                f"batch_size={batch_size} but the buffer holds only {counted(available, 'sample')}; "
                "add more or reduce batch_size"
            )
        rows = self.draw(batch_size, n_batches, progress)
        normalize_importance(rows)
        if "importance" in rows and rows["index"].ndim > 2:  # one importance per sequence: repeat it for each row
            rows["importance"] = np.repeat(rows["importance"][:, None], rows["index"].shape[1], axis=1)
        return unflatten(rows, batch_dims=rows["reward"].ndim)

    def draw(self, batch_size: int, n_batches: int = 1, progress: float = 0.0) -> Rows:
        """Draw batches as flat arrays in one block, even from fewer than `batch_size` samples.

        Apart from that it equals `sample`, but `importance` is not normalized.

        Raises:
            NotEnoughDataError: there are no samples.
        """
        storage, sampler = self.storage, self._sampler
        if not self.available:
            raise NotEnoughDataError(sampler.why_empty(storage))
        if not sampler.anchored:
            return sampler.read(storage, sampler.draw(storage, self.rng, n_batches, batch_size))
        anchors = draw_anchors(storage, sampler, self.priorities, self.rng, n_batches, batch_size)
        if self.online_fraction:
            put_newest(storage, sampler, self._newest, self.online_fraction, anchors)
        rows = sampler.read(storage, anchors)
        if self.priorities:
            rows["importance"] = self.priorities.importance(anchors, progress)
        return rows

    # ----------------------------------------------------------------------------------------- writing

    def write_back(self, index: Slots, values: TensorDict) -> int:
        """Overwrite keys of sampled rows, identified by their `index`. Skip evicted rows.

        Returns:
            Number of stored rows.

        Raises:
            KeyError: the rows have no such key.
        """
        from sheeprl.buffer.tensordicts import flatten

        return self.write_back_rows(np.asarray(index), flatten(values))

    def write_back_rows(self, index: Slots, values: Rows) -> int:
        """Overwrite keys of sampled rows with flat arrays, as `write_back` does."""
        stored = self.storage.write_back(index, values)
        self.counts.late_writes += int(np.count_nonzero(index >= 0)) - stored
        return stored

    def update_priorities(self, index: Slots, priorities: Any) -> int:
        """Set the priorities of sampled rows. Skip evicted rows.

        Args:
            index: `index` of the sampled transitions, or of the last rows of sequences.
            priorities: one non-negative priority per index, before the power of alpha.

        Returns:
            Number of stored rows.

        Raises:
            ValueError: the buffer is not prioritized, a priority is negative or not finite, or `index` has another
                length than `priorities`.
        """
        if not self.priorities:
            raise ValueError("this buffer draws uniformly; create it with prioritized=Prioritized()")
        index = np.asarray(index)
        late = self.priorities.update(self.storage, index, np.asarray(priorities))
        self.counts.late_priorities += late
        return index.size - late

    # ------------------------------------------------------------------------------------- persistence

    def close(self) -> None:
        """Release the files of a memory-mapped buffer for another process. Do not use this buffer afterwards."""
        self.storage.memory.close()

    def save(self, folder: Path | str | Place) -> int:
        """Save the buffer to a new folder or place. Chunks unchanged since the last save are hard links.

        Returns:
            Bytes written.

        Raises:
            NoRoomError: the disk is full.
            FileExistsError: the folder exists already.
        """
        place = Folder(Path(folder)) if isinstance(folder, (str, Path)) else folder
        return self._saver.save(place, self._state())

    def load(self, folder: Path | str | Place) -> None:
        """Load a buffer from a folder or place of `save`.

        Raises:
            DamagedSaveError: a file is missing or altered.
            ValueError: the saved buffer has another capacity or other rows than this one.
        """
        place = Folder(Path(folder)) if isinstance(folder, (str, Path)) else folder
        self._restore(self._saver.load(place))

    def expect_restarts(self) -> None:
        """Begin new streams with the next fragment of each player, whatever its incarnation and sequence number.

        For rows from after the checkpoint from which the players go on: their fragments don't continue those rows, but
        may have the same numbers.
        """
        self._restarting = set(self.storage.streams.newest)

    def adopt(self, counts: Counts) -> None:
        """Mark all rows of the storage as drawn by `online_fraction`, and set the counts."""
        self.counts = counts
        self._newest = Newest(self.storage.total)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state as plain values and arrays, for `load_state_dict`."""
        arrays = {name: values.copy() for name, values in self.storage.arrays().items()}
        return copy.deepcopy({"book": self.storage.metadata(), "state": self._state()}) | {"arrays": arrays}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state from `state_dict`.

        Raises:
            ValueError: the state has another capacity or other rows than this buffer.
        """
        arrays: Rows = state["arrays"]
        kinds = {name: (values.shape, values.dtype) for name, values in arrays.items()}
        for name, target in self.storage.restore(state["book"], kinds).items():
            target[:] = arrays[name]
        self.storage.restored()
        self._restore(state["state"])

    def _state(self) -> dict[str, Any]:
        """Return the state apart from the storage, as values that JSON can represent."""
        return {
            "rng": self.rng.bit_generator.state,
            "counts": asdict(self.counts),
            "newest": self._newest.state_dict(),
            "highest_priority": self.priorities.highest if self.priorities else None,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        """Restore a state from `_state`."""
        self._restarting = set()
        self.rng.bit_generator.state = state["rng"]
        self.counts = Counts(**state["counts"])
        self._newest = Newest.from_state_dict(state["newest"])
        if self.priorities and state["highest_priority"] is not None:
            self.priorities.highest = state["highest_priority"]


def _is_observation(name: str) -> bool:
    """Return True for the flat key of an observation."""
    return name.partition("/")[0] == "obs"
