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

MIN_PRIORITY = 1e-6
"""Smallest priority, so that samples with an error of zero are still drawn sometimes."""


@dataclass(frozen=True)
class Prioritized:
    """Exponents of prioritized sampling: P(i) = p_i^alpha / sum_k p_k^alpha, importance (N P(i))^-beta.

    Args:
        alpha: exponent of the priorities: 0 is uniform, 1 proportional.
        beta: exponent of the importance at the beginning of the training; it changes linearly to `beta_end`.
        beta_end: exponent of the importance at the end of the training.

    Raises:
        ValueError: an exponent is not from 0 to 1.
    """

    alpha: float = 0.6
    beta: float = 0.4
    beta_end: float = 1.0

    def __post_init__(self) -> None:
        """Validate the arguments."""
        for name in ("alpha", "beta", "beta_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be from 0 to 1")

    def beta_at(self, progress: float) -> float:
        """Return beta after a fraction of the training, from 0 to 1."""
        return self.beta + (self.beta_end - self.beta) * min(1.0, max(0.0, progress))


class Priorities:
    """Sum tree of the priorities of all rows, to the power of alpha. New rows get the highest priority so far.

    It is an extension of the storage. Rows that can't be anchors have a priority of 0.

    Args:
        prioritized: exponents alpha and beta.
        decides: True if only rows with an action can be anchors, not the end rows of episodes.
    """

    def __init__(self, prioritized: Prioritized, decides: bool = True) -> None:
        """Store the settings; `attach` adds the arrays."""
        self.prioritized = prioritized
        self.decides = decides
        self.highest = 1.0  # to the power of alpha

    def arrays(self, capacity: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Return the array of leaves."""
        return {"priority": ((even(capacity),), np.dtype(np.float64))}

    def attach(self, arrays: Rows) -> None:
        """Build the tree on the allocated leaves."""
        self.tree = SumTree(arrays["priority"])

    def evicting(self, storage: Storage, slots: Slots) -> None:
        """Do nothing: new rows overwrite the leaves at once."""

    def added(self, storage: Storage, slots: Slots, streams: Slots) -> None:
        """Set the priorities of new rows to the highest one."""
        flat = slots.ravel()
        self.tree.update(flat, np.where(self._can_be_anchor(storage, flat), self.highest, 0.0))

    def _can_be_anchor(self, storage: Storage, slots: Slots) -> npt.NDArray[np.bool_]:
        """Return a flag per slot: True if its row can be an anchor."""
        return storage.is_transition(slots) if self.decides else storage.is_real(slots)

    def rebuild(self, storage: Storage) -> None:
        """Rebuild the tree. Rows without a priority, as from a uniform buffer, get the highest one."""
        if not storage.rows:
            return
        leaves, size = self.tree.leaves[: storage.size], storage.size
        can_be_anchor = self._can_be_anchor(storage, np.arange(size))
        leaves[~can_be_anchor] = 0.0
        self.highest = float(leaves.max(initial=0.0)) or self.highest
        leaves[can_be_anchor & (leaves == 0.0)] = self.highest
        self.tree.leaves[size:] = 0.0
        self.tree.rebuild()

    @property
    def total_priority(self) -> float:
        """Return the sum of all priorities to the power of alpha."""
        return self.tree.total if hasattr(self, "tree") else 0.0

    def draw(self, rng: np.random.Generator, n_batches: int, batch_size: int) -> Slots:
        """Draw `[n_batches, batch_size]` stratified slots, one per share of the total priority (appendix B.2.1)."""
        share = self.total_priority / batch_size
        heights = (np.arange(batch_size) + rng.random((n_batches, batch_size))) * share
        return self.tree.find(heights.ravel()).reshape(n_batches, batch_size)

    def redraw(self, rng: np.random.Generator, count: int) -> Slots:
        """Draw `count` independent slots."""
        return self.tree.find(rng.random(count) * self.total_priority)

    def importance(self, slots: Slots, progress: float) -> npt.NDArray[np.float32]:
        """Return p^-beta of each slot, which `normalize_importance` turns into the weights of a batch.

        The normalization cancels the common factors, the total priority and the number of samples.
        """
        priorities = self.tree.leaves.take(slots)
        return np.asarray(priorities ** -self.prioritized.beta_at(progress), np.float32)

    def set_leaves(self, storage: Storage, numbers: Slots, leaves: npt.NDArray[np.float64]) -> None:
        """Set the leaves of rows, identified by arrival number, to those of another buffer. Skip evicted rows."""
        is_stored = storage.is_stored(numbers)
        self.tree.update(numbers[is_stored] % storage.capacity, leaves[is_stored])
        self.highest = max(self.highest, float(leaves.max(initial=0.0)))

    def update(self, storage: Storage, numbers: Slots, priorities: npt.NDArray[Any]) -> int:
        """Set the priorities of rows, identified by arrival number. Skip evicted rows.

        Returns:
            Number of evicted rows.

        Raises:
            ValueError: a priority is negative or not finite, or there is not one per row.
        """
        numbers, priorities = np.ravel(numbers), np.ravel(priorities).astype(np.float64)
        if len(numbers) != len(priorities):
            raise ValueError(f"{len(priorities)} priorities for {len(numbers)} rows; pass one per row")
        if not (np.isfinite(priorities) & (priorities >= 0)).all():
            raise ValueError("a priority is negative or not finite; pass finite priorities of at least 0")
        is_stored = storage.is_stored(numbers)
        slots = numbers[is_stored] % storage.capacity
        raised = np.maximum(priorities[is_stored], MIN_PRIORITY) ** self.prioritized.alpha
        raised = np.where(self._can_be_anchor(storage, slots), raised, 0.0)
        if len(slots):
            self.tree.update(slots, raised)
            self.highest = max(self.highest, float(raised.max()))
            storage.changes.wrote("annex priority", slots)
        return len(numbers) - len(slots)


def normalize_importance(rows: Rows) -> None:
    """Divide `importance`, if present, by its maximum in each batch, in place."""
    if "importance" in rows:
        rows["importance"] /= rows["importance"].max(axis=-1, keepdims=True)
