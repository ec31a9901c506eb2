"""The replay buffer: TensorDicts in, TensorDicts out, rows in between.

Only who comes with TensorDicts waits for torch: a shard of a run's replay, which speaks arrays, starts without it.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sheeprl.buffer.finite import find_non_finite
from sheeprl.buffer.memmap import Heap, Mapped
from sheeprl.buffer.online import Newest
from sheeprl.buffer.priorities import Priorities, Prioritized, normalize_importance
from sheeprl.buffer.sampler import Sampler
from sheeprl.buffer.samplers import Transitions
from sheeprl.buffer.saving import Saver
from sheeprl.buffer.storage import Extension, NotEnoughDataError, RefusedFragmentError, Rows, Storage
from sheeprl.buffer.streams import Slots, StreamKey

if TYPE_CHECKING:
    from tensordict import TensorDict

NonFinite = Literal["refuse", "keep"]


@dataclass
class Counts:
    """What didn't go the usual way.

    Args:
        repeated: fragments that had come before, or were of an incarnation that has been replaced.
        gaps: fragments before which others of their stream were lost.
        refused: fragments that were refused.
        non_finite: fragments that were kept although rewards or observations in them aren't finite.
        late_writes: rows that were gone when something was to be written back to them.
        late_priorities: rows that were gone when they were to get a priority.
    """

    repeated: int = 0
    gaps: int = 0
    refused: int = 0
    non_finite: int = 0
    late_writes: int = 0
    late_priorities: int = 0


class ReplayBuffer:
    """Rows of many streams, and one way to sample them. Needs neither Ray nor the rest of SheepRL.

    As a replay it holds the newest `capacity` rows; as a rollout buffer, with `capacity = T * B` and the `Rollout`
    sampler, exactly the last round.

    Args:
        capacity: rows kept.
        sampler: what a sample is.
        seed: of the generator that samples are drawn with, which is part of the state.
        prioritized: draw by priority; None draws uniformly.
        online_fraction: part of each batch that is the newest data which wasn't drawn this way before, newest first;
            once there is no more of it, the batch is filled up as usual.
        non_finite: refuse fragments with rewards or observations that aren't finite, or keep them.
        memmap: folder in which the rows are to lie, instead of in memory: they may be larger than that, and after a
            kill `attach` goes on with all that was added. Must not hold a buffer yet.

    Raises:
        ValueError: settings that make no sense, alone or together.
        FileExistsError: the folder holds a buffer.

    Example:
        >>> buffer = ReplayBuffer(100_000, Transitions(), seed=1)
        >>> buffer.add(fragment)                      # TensorDict [T + 1, B], the last row being the tail
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
        memmap: Path | str | None = None,
    ) -> None:
        self._set_up(sampler, seed, prioritized, online_fraction, non_finite)
        if capacity < 1:  # before there are files
            raise ValueError(f"a buffer of {capacity} rows can't hold anything; give at least 1")
        self.storage = Storage(capacity, Mapped(Path(memmap)) if memmap else Heap(), self._annexes())
        self._saver = Saver(self.storage)

    def _set_up(
        self,
        sampler: Sampler | None,
        seed: int | np.random.SeedSequence,
        prioritized: Prioritized | None,
        online_fraction: float,
        non_finite: NonFinite,
    ) -> None:
        self._sampler: Sampler = sampler or Transitions()
        if not 0 <= online_fraction <= 1:
            raise ValueError(f"online_fraction={online_fraction}: must be from 0 to 1")
        if not self._sampler.anchored and (prioritized or online_fraction):
            raise ValueError(f"{self._sampler} chooses by itself: neither prioritized nor online_fraction go with it")
        if prioritized and online_fraction:
            raise ValueError(
                "online_fraction: samples chosen by age have no importance to correct for prioritized ones"
            )
        self.rng = np.random.Generator(np.random.PCG64(seed))
        self.priorities = Priorities(prioritized, self._sampler.decides) if prioritized else None
        self.online_fraction = online_fraction
        self.non_finite = non_finite
        self.counts = Counts()
        self._newest = Newest()

    def _annexes(self) -> tuple[Extension, ...]:
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
    ) -> ReplayBuffer:
        """Go on with a memory-mapped buffer whose process has ended, however it did: with all that had been added.

        A fragment that was being added is not there, and may be sent again. Give another seed than before, or samples
        repeat: the generator goes on only with `save` and `load`.

        Raises:
            FileNotFoundError: the folder holds no buffer.
            BlockingIOError: its process is still there.
            ValueError: the buffer there is damaged, has another capacity, or was made for another way of sampling.
        """
        buffer = cls.__new__(cls)
        buffer._set_up(sampler, seed, prioritized, online_fraction, non_finite)
        memory = Mapped(Path(memmap), attach=True)
        try:
            buffer.storage = Storage(capacity, memory, buffer._annexes())
            buffer.storage.reattach()
        except BaseException:
            memory.close()
            raise
        buffer._newest = Newest(buffer.storage.total)  # nobody knows which rows were drawn before
        buffer._saver = Saver(buffer.storage)
        return buffer

    def __len__(self) -> int:
        return self.storage.size

    @property
    def sampler(self) -> Sampler:
        """What a sample is."""
        return self._sampler

    @sampler.setter
    def sampler(self, sampler: Sampler) -> None:
        if extensions := sampler.extensions():
            raise ValueError(
                f"{type(extensions[0]).__name__} must be kept from the beginning: make a buffer with {sampler}"
            )
        if self.online_fraction and not sampler.anchored:
            raise ValueError(f"{sampler} chooses by itself: online_fraction doesn't go with it")
        if self.priorities and (not sampler.anchored or sampler.decides != self.priorities.decides):
            raise ValueError(f"the priorities are those of {self._sampler}: make a buffer with {sampler}")
        self._sampler = sampler

    @property
    def available(self) -> int:
        """How many different samples could be drawn now."""
        return self._sampler.available(self.storage) if self.storage.rows else 0

    @property
    def added(self) -> int:
        """Rows that were ever added."""
        return self.storage.added

    @property
    def total_priority(self) -> float:
        """What this buffer's part among several should be in proportion to."""
        return self.priorities.total_priority if self.priorities else float(self.available)

    @property
    def sample_bytes(self) -> int:
        """About how large a sample is; 0 before there is any row."""
        return self._sampler.rows_per_sample(self.storage) * self.storage.row_bytes if self.storage.rows else 0

    # ------------------------------------------------------------------------------------------ adding

    def add(self, fragment: TensorDict, stream: StreamKey = (0, 0), sequence: int | None = None) -> bool:
        """Copy a fragment in, behind what its stream brought before.

        Args:
            fragment: `[T + 1, B]` with `obs`, `action`, `reward`, `terminated`, `truncated`, `is_first` and whatever
                else the algorithm stores. Its last row is the tail, on which nothing was decided yet and which the
                next fragment's first row replaces.
            stream: (player, incarnation). A new incarnation begins new streams.
            sequence: number of the fragment in its stream. A number that was already added is ignored, so that a
                fragment may be sent twice; after a gap new streams begin; None takes the next one.

        Returns:
            Whether it was added.

        Raises:
            RefusedFragmentError: keys, shapes or dtypes differ from the first fragment's, the fragment exceeds the
                capacity, or something in it isn't finite. Nothing is stored then.
            NoRoomError: there is no room for the buffer.
        """
        from sheeprl.buffer.tensordicts import flatten

        return self.add_rows(flatten(fragment), stream, sequence)

    def add_rows(self, fragment: Rows, stream: StreamKey = (0, 0), sequence: int | None = None) -> bool:
        """`add` of flat arrays."""
        expected = self.storage.streams.expects(stream)
        if expected is None or (sequence is not None and sequence < expected):
            self.counts.repeated += 1
            return False
        sequence = expected if sequence is None else sequence
        is_gap = sequence > expected
        try:
            self._check_finite(fragment)
            self.storage.add(stream, fragment, sequence, anew=is_gap)
        except RefusedFragmentError:
            self.counts.refused += 1
            raise
        self.counts.gaps += is_gap and expected > 0
        return True

    def _check_finite(self, fragment: Rows) -> None:
        for name, values in fragment.items():
            if name.partition("/")[0] not in ("obs", "reward") or (found := find_non_finite(values)) is None:
                continue
            if self.non_finite == "keep":
                self.counts.non_finite += 1
                return
            where, value = found
            place = f"in row {where[0]} of environment {where[1]}" if len(where) > 1 else "somewhere"
            raise RefusedFragmentError(f"{name} is {value} {place}")

    # ---------------------------------------------------------------------------------------- sampling

    def sample(self, batch_size: int, n_batches: int = 1, progress: float = 0.0) -> TensorDict:
        """Draw `n_batches` batches as one block, of the shape that the sampler says.

        Args:
            batch_size: samples of a batch.
            n_batches: batches.
            progress: part of training that is over, from 0 to 1; beta of prioritized sampling follows it.

        Raises:
            NotEnoughDataError: there aren't `batch_size` different samples yet.
        """
        from sheeprl.buffer.tensordicts import unflatten

        available = self.available
        if 0 < available < batch_size and not self._sampler.takes_all:
            raise NotEnoughDataError(f"a batch of {batch_size} was asked for; there are only {available} samples yet")
        rows = self.draw(batch_size, n_batches, progress)
        normalize_importance(rows)
        if "importance" in rows and rows["index"].ndim > 2:  # a sequence's is said of each of its rows
            rows["importance"] = np.repeat(rows["importance"][:, None], rows["index"].shape[1], axis=1)
        return unflatten(rows, batch_dims=rows["reward"].ndim)

    def draw(self, batch_size: int, n_batches: int = 1, progress: float = 0.0) -> Rows:
        """`sample` as flat arrays in one block, however little there is to draw them from.

        `importance` is not divided by its maximum yet.

        Raises:
            NotEnoughDataError: there is nothing to draw from.
        """
        storage, sampler = self.storage, self._sampler
        if not self.available:
            raise NotEnoughDataError(sampler.why_empty(storage))
        if not sampler.anchored:
            return sampler.read(storage, sampler.draw(storage, self.rng, n_batches, batch_size))
        anchors = self._anchors(n_batches, batch_size)
        rows = sampler.read(storage, anchors)
        if self.priorities:
            rows["importance"] = self.priorities.importance(anchors, progress)
        return rows

    def _anchors(self, n_batches: int, batch_size: int) -> Slots:
        """`[n_batches, batch_size]` anchors. Illegal draws are thrown away and drawn anew."""
        if self.priorities:
            drawn = self.priorities.draw(self.rng, n_batches, batch_size)
        else:
            drawn = self.rng.integers(len(self), size=(n_batches, batch_size))
        flat = drawn.reshape(-1)
        for _ in range(16):
            bad = np.flatnonzero(~self._sampler.valid(self.storage, flat))
            if not len(bad):
                break
            flat[bad] = self._redraw(len(bad))
        else:
            self._choose_among_all(flat)
        if self.online_fraction:
            self._put_newest(drawn)
        return drawn

    def _redraw(self, count: int) -> Slots:
        if self.priorities:
            return self.priorities.redraw(self.rng, count)
        return self.rng.integers(len(self), size=count)

    def _choose_among_all(self, flat: Slots) -> None:
        """Replace illegal draws where hardly any slot is legal: list those that are."""
        bad = np.flatnonzero(~self._sampler.valid(self.storage, flat))
        choices = np.flatnonzero(self._sampler.valid(self.storage, np.arange(len(self))))
        weights = self.priorities.tree.leaves[choices] if self.priorities else np.ones(len(choices))
        heights = self.rng.random(len(bad)) * weights.sum()
        chosen = weights.cumsum().searchsorted(heights, side="right")
        flat[bad] = choices[np.minimum(chosen, len(choices) - 1)]

    def _put_newest(self, drawn: Slots) -> None:
        """Replace the first part of every batch by the newest samples that weren't drawn this way yet."""
        part = drawn[:, : round(self.online_fraction * drawn.shape[1])]
        slots = self._newest.take(self.storage, self._sampler, part.size)
        # Spread over the batches: the newest one to the first, the next to the second and so on.
        column, batch = np.divmod(np.arange(len(slots)), len(drawn))
        part[batch, column] = slots

    # ----------------------------------------------------------------------------------------- writing

    def write_back(self, index: Slots, values: TensorDict) -> int:
        """Overwrite keys of sampled rows by their `index`; rows that have been overwritten since are left out.

        Returns:
            How many rows were still there.

        Raises:
            KeyError: a key that isn't stored.
        """
        from sheeprl.buffer.tensordicts import flatten

        return self.write_back_rows(np.asarray(index), flatten(values))

    def write_back_rows(self, index: Slots, values: Rows) -> int:
        """`write_back` of flat arrays."""
        kept = self.storage.write_back(index, values)
        self.counts.late_writes += int(np.count_nonzero(index >= 0)) - kept
        return kept

    def update_priorities(self, index: Slots, priorities: Any) -> int:
        """Give sampled rows new priorities by their `index`, before they are raised to alpha.

        Args:
            index: of transitions, as sampled; of sequences, that of the last row.
            priorities: as many, not negative. Rows that have been overwritten since are left out and counted.

        Returns:
            How many rows were still there.

        Raises:
            ValueError: the buffer isn't prioritized, or a priority is negative or not finite, or there are more or
                fewer than rows.
        """
        if not self.priorities:
            raise ValueError("this buffer draws uniformly; make it with prioritized=Prioritized()")
        index = np.asarray(index)
        late = self.priorities.update(self.storage, index, np.asarray(priorities))
        self.counts.late_priorities += late
        return index.size - late

    # ------------------------------------------------------------------------------------- persistence

    def close(self) -> None:
        """Let another process have the files of a memory-mapped buffer; this one must not be used any more."""
        self.storage.memory.close()

    def save(self, folder: Path | str) -> int:
        """Write everything into a folder, which is made. What hasn't changed since the last save is only linked to it.

        Returns:
            Bytes written.

        Raises:
            NoRoomError: the disk is full.
            FileExistsError: the folder is there already.
        """
        return self._saver.save(Path(folder), self._state())

    def load(self, folder: Path | str) -> None:
        """Take over what `save` wrote.

        Raises:
            DamagedSaveError: a file isn't as it was written.
            ValueError: it was saved with another capacity, or of other rows than this buffer holds.
        """
        self._restore(self._saver.load(Path(folder)))

    def adopt(self, counts: Counts) -> None:
        """Take the rows that were put into the storage for such that it has had, and `counts` for what was counted."""
        self.counts = counts
        self._newest = Newest(self.storage.total)

    def state_dict(self) -> dict[str, Any]:
        """Everything as plain values and arrays of its own, as `load_state_dict` takes it."""
        arrays = {name: values.copy() for name, values in self.storage.arrays().items()}
        return copy.deepcopy({"book": self.storage.book(), "state": self._state()}) | {"arrays": arrays}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            ValueError: it is of another capacity, or of other rows than this buffer holds.
        """
        arrays: Rows = state["arrays"]
        kinds = {name: (values.shape, values.dtype) for name, values in arrays.items()}
        for name, target in self.storage.restore(state["book"], kinds).items():
            target[:] = arrays[name]
        self.storage.restored()
        self._restore(state["state"])

    def _state(self) -> dict[str, Any]:
        return {
            "rng": self.rng.bit_generator.state,
            "counts": asdict(self.counts),
            "newest": self._newest.state_dict(),
            "highest_priority": self.priorities.highest if self.priorities else None,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]
        self.counts = Counts(**state["counts"])
        self._newest = Newest.from_state_dict(state["newest"])
        if self.priorities and state["highest_priority"] is not None:
            self.priorities.highest = state["highest_priority"]
