"""Proportional prioritized sampling (Schaul et al. 2016, https://arxiv.org/abs/1511.05952)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sheeprl.buffer.sum_tree import SumTree, even

if TYPE_CHECKING:
    from sheeprl.buffer.storage import Rows, Storage
    from sheeprl.buffer.streams import Slots

LEAST = 1e-6
"""Smallest priority: a sample whose error is zero is still drawn once in a while."""


@dataclass(frozen=True)
class Prioritized:
    """How strongly priorities count: P(i) = p_i^alpha / sum_k p_k^alpha, importance (N P(i))^-beta.

    Args:
        alpha: 0 is uniform, 1 proportional to the priority.
        beta: how much of the bias is corrected at the beginning of training; it goes linearly to `beta_end`.
        beta_end: and at the end.
    """

    alpha: float = 0.6
    beta: float = 0.4
    beta_end: float = 1.0

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "beta_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be from 0 to 1")

    def beta_at(self, progress: float) -> float:
        """Beta when this part of training, from 0 to 1, is over."""
        return self.beta + (self.beta_end - self.beta) * min(1.0, max(0.0, progress))


class Priorities:
    """A priority for every row, to the power of alpha, in a sum tree. New rows get the highest there has been.

    An annex of the storage. Rows that no sample is drawn by have none.

    Args:
        prioritized: alpha and beta.
        decides: whether samples are drawn by rows that carry a decision, or also by those that end an episode.
    """

    def __init__(self, prioritized: Prioritized, decides: bool = True) -> None:
        self.prioritized = prioritized
        self.decides = decides
        self.highest = 1.0  # to the power of alpha

    def arrays(self, capacity: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """The leaves."""
        return {"priority": ((even(capacity),), np.dtype(np.float64))}

    def attach(self, arrays: Rows) -> None:
        """Build the tree over the leaves."""
        self.tree = SumTree(arrays["priority"])

    def evicting(self, storage: Storage, slots: Slots) -> None:
        """Their places are taken by other rows at once."""

    def added(self, storage: Storage, slots: Slots, streams: Slots) -> None:
        """New rows."""
        flat = slots.ravel()
        self.tree.update(flat, np.where(self._counts(storage, flat), self.highest, 0.0))

    def _counts(self, storage: Storage, slots: Slots) -> npt.NDArray[np.bool_]:
        """Whether a sample may be drawn by each row."""
        return storage.is_transition(slots) if self.decides else storage.is_real(slots)

    def rebuild(self, storage: Storage) -> None:
        """Sum anew. Rows without a priority, from where none were kept, get the highest."""
        if not storage.rows:
            return
        leaves, size = self.tree.leaves[: storage.size], storage.size
        has = self._counts(storage, np.arange(size))
        leaves[~has] = 0.0
        self.highest = float(leaves.max(initial=0.0)) or self.highest
        leaves[has & (leaves == 0.0)] = self.highest
        self.tree.leaves[size:] = 0.0
        self.tree.rebuild()

    @property
    def total_priority(self) -> float:
        """Sum of all priorities, to the power of alpha."""
        return self.tree.total if hasattr(self, "tree") else 0.0

    def draw(self, rng: np.random.Generator, n_batches: int, batch_size: int) -> Slots:
        """`[n_batches, batch_size]` slots: in every batch, one of each equal share of the mass (the appendix)."""
        share = self.total_priority / batch_size
        heights = (np.arange(batch_size) + rng.random((n_batches, batch_size))) * share
        return self.tree.find(heights.ravel()).reshape(n_batches, batch_size)

    def redraw(self, rng: np.random.Generator, count: int) -> Slots:
        """`count` slots, each by itself."""
        return self.tree.find(rng.random(count) * self.total_priority)

    def importance(self, slots: Slots, progress: float) -> npt.NDArray[np.float32]:
        """p^-beta of each slot, of which `normalize_importance` makes the weights of a batch.

        What all have in common, the mass and the number of samples, falls out then.
        """
        priorities = self.tree.leaves.take(slots)
        return np.asarray(priorities ** -self.prioritized.beta_at(progress), np.float32)

    def put(self, storage: Storage, numbers: Slots, leaves: npt.NDArray[np.float64]) -> None:
        """Set what is kept in the tree for rows by arrival number, as it was in another buffer's."""
        kept = storage.kept(numbers)
        self.tree.update(numbers[kept] % storage.capacity, leaves[kept])
        self.highest = max(self.highest, float(leaves.max(initial=0.0)))

    def update(self, storage: Storage, numbers: Slots, priorities: npt.NDArray[Any]) -> int:
        """Set the priorities of rows by arrival number; those of rows that are gone are counted as late.

        Returns:
            How many were late.

        Raises:
            ValueError: a priority is negative or not finite, or there are more or fewer than rows.
        """
        numbers, priorities = np.ravel(numbers), np.ravel(priorities).astype(np.float64)
        if len(numbers) != len(priorities):
            raise ValueError(f"{len(priorities)} priorities were given for {len(numbers)} rows")
        if not (np.isfinite(priorities) & (priorities >= 0)).all():
            raise ValueError("a priority is negative or not a finite number")
        kept = storage.kept(numbers)
        slots = numbers[kept] % storage.capacity
        raised = np.maximum(priorities[kept], LEAST) ** self.prioritized.alpha
        raised = np.where(self._counts(storage, slots), raised, 0.0)
        if len(slots):
            self.tree.update(slots, raised)
            self.highest = max(self.highest, float(raised.max()))
            storage.changes.wrote("annex priority", slots)
        return len(numbers) - len(slots)


def normalize_importance(rows: Rows) -> None:
    """Divide the key `importance`, if it is there, by its maximum in each batch, in place."""
    if "importance" in rows:
        rows["importance"] /= rows["importance"].max(axis=-1, keepdims=True)
