"""Draw anchors, the slots at which samples end: uniformly or by priority, some of them from the newest rows."""

from __future__ import annotations

import numpy as np

from sheeprl.buffer.online import Newest
from sheeprl.buffer.priorities import Priorities
from sheeprl.buffer.sampler import Sampler
from sheeprl.buffer.storage import Storage
from sheeprl.buffer.streams import Slots

ROUNDS = 16  # of drawing invalid anchors again, before the valid slots are listed


def draw_anchors(
    storage: Storage,
    sampler: Sampler,
    priorities: Priorities | None,
    rng: np.random.Generator,
    n_batches: int,
    batch_size: int,
) -> Slots:
    """Draw valid anchors `[n_batches, batch_size]`. Invalid ones are drawn again.

    Args:
        storage: the rows, with at least one valid slot.
        sampler: decides which slots are valid.
        priorities: draw by them; None draws uniformly.
        rng: generator of the draws.
        n_batches: number of batches.
        batch_size: samples per batch.
    """
    if priorities:
        drawn = priorities.draw(rng, n_batches, batch_size)
    else:
        drawn = rng.integers(storage.size, size=(n_batches, batch_size))
    flat = drawn.reshape(-1)
    for _ in range(ROUNDS):
        invalid = np.flatnonzero(~sampler.valid(storage, flat))
        if not len(invalid):
            return drawn
        count = len(invalid)
        flat[invalid] = priorities.redraw(rng, count) if priorities else rng.integers(storage.size, size=count)
    _choose_among_all(storage, sampler, priorities, rng, flat)
    return drawn


def _choose_among_all(
    storage: Storage, sampler: Sampler, priorities: Priorities | None, rng: np.random.Generator, flat: Slots
) -> None:
    """Replace invalid draws by draws from the list of all valid slots, for buffers with few valid slots."""
    invalid = np.flatnonzero(~sampler.valid(storage, flat))
    choices = np.flatnonzero(sampler.valid(storage, np.arange(storage.size)))
    weights = priorities.tree.leaves[choices] if priorities else np.ones(len(choices))
    heights = rng.random(len(invalid)) * weights.sum()
    chosen = weights.cumsum().searchsorted(heights, side="right")
    flat[invalid] = choices[np.minimum(chosen, len(choices) - 1)]


def put_newest(storage: Storage, sampler: Sampler, newest: Newest, fraction: float, drawn: Slots) -> None:
    """Replace the first part of every batch by the newest samples that `newest` has not returned yet."""
    part = drawn[:, : round(fraction * drawn.shape[1])]
    slots = newest.take(storage, sampler, part.size)
    # Distribute them over the batches: the newest to the first, the next to the second, and so on.
    column, batch = np.divmod(np.arange(len(slots)), len(drawn))
    part[batch, column] = slots
