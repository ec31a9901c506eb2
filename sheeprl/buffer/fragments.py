"""Keys of a fragment's rows, and checks of fragments before they are stored."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sheeprl.buffer.memmap import Array

REQUIRED = ("reward", "terminated", "truncated", "is_first", "action")
FLAGS = ("terminated", "truncated", "is_first")
PER_STEP = ("reward", "terminated", "truncated")
"""Keys of the step that led to the row. A transition takes them from its next row."""
PRIORITY = "priority"
"""Key of a fragment's initial priorities, `[T + 1, B]`; a buffer that draws by priority doesn't store it as a row."""
RESERVED = ("index", "mask", "discount", "importance", "next_obs", PRIORITY)
"""Keys that samples have in addition to the keys of the rows, and that of the priorities."""


class RefusedFragmentError(ValueError):
    """Raised when a fragment is invalid or does not match the stored rows. Nothing of it is stored."""


class EarlierFragmentMissingError(RuntimeError):
    """Raised when an earlier fragment of the same call to all shards was lost. Nothing is stored."""


class FragmentOrder:
    """Order in which a shard stores the fragments of a batch: exactly the one in which they were sent.

    Without it, a lost fragment would move behind the others when it is sent again, and later samples would differ.
    """

    def __init__(self) -> None:
        """Start without a batch."""
        self.batch: int | None = None
        self.next = 0

    def check(self, batch: int | None, place: int) -> None:
        """Check that all earlier fragments of the batch have arrived.

        Args:
            batch: number of the batch; None for a fragment without order.
            place: place of the fragment in the batch.

        Raises:
            EarlierFragmentMissingError: an earlier one hasn't arrived.
        """
        if batch is None:
            return
        if batch != self.batch:
            self.batch, self.next = batch, 0
        if place != self.next:
            raise EarlierFragmentMissingError(f"fragment {self.next} of the batch is missing, before fragment {place}")
        self.next += 1


def shape_of(fragment: Mapping[str, Array]) -> tuple[int, ...]:
    """Return `[T + 1, B]` of a valid fragment.

    Raises:
        RefusedFragmentError: the fragment is invalid.
    """
    if missing := [name for name in REQUIRED if name not in fragment]:
        raise RefusedFragmentError(f"the fragment has no {', '.join(missing)}")
    shape = fragment["reward"].shape
    if len(shape) != 2 or shape[0] < 2 or shape[1] < 1:
        raise RefusedFragmentError(f"reward has shape {shape}; a fragment is [T + 1, B] with T and B at least 1")
    for name, values in fragment.items():
        if values.shape[:2] != shape:
            raise RefusedFragmentError(f"{name} has shape {values.shape}, but reward has {shape}")
    for name in FLAGS:
        if (values := fragment[name]).shape != shape or values.dtype != np.bool_:
            raise RefusedFragmentError(f"{name} is {values.dtype}{list(values.shape)}; flags are bool{list(shape)}")
    if reserved := [name for name in fragment if name.partition("/")[0] in RESERVED]:
        raise RefusedFragmentError(f"the key {reserved[0]} is reserved for samples; rename it")
    return shape


def check_like(fragment: Mapping[str, Array], rows: Mapping[str, Array]) -> None:
    """Check that a fragment has the keys, shapes and dtypes of the stored rows, if there are any.

    Raises:
        RefusedFragmentError: they differ.
    """
    if rows and (different := set(rows) ^ set(fragment)):
        raise RefusedFragmentError(f"keys differ from those of the first fragment: {', '.join(sorted(different))}")
    for name, values in fragment.items() if rows else ():
        stored = rows[name]
        if (stored.shape[1:], stored.dtype) != (values.shape[2:], values.dtype):
            given, known = (f"{a.dtype}{list(a.shape[n:])}" for a, n in ((values, 2), (stored, 1)))
            raise RefusedFragmentError(f"{name} is {given}, but the stored rows have {known}")


def check_priorities(priorities: Array, fragment: Mapping[str, Array]) -> None:
    """Check that initial priorities fit the fragment, and that they are finite and at least 0.

    Raises:
        RefusedFragmentError: they don't, or aren't.
    """
    if priorities.shape != fragment["reward"].shape:
        raise RefusedFragmentError(f"{PRIORITY} has shape {priorities.shape}, but reward {fragment['reward'].shape}")
    rows = priorities[:-1]
    if wrong := rows[~(np.isfinite(rows) & (rows >= 0))].tolist():
        raise RefusedFragmentError(f"{PRIORITY} is {wrong[0]}; pass finite priorities of at least 0")
