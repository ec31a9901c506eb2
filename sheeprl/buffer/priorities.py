"""Prioritized sampling."""

from __future__ import annotations

from sheeprl.buffer.storage import Rows


def normalize_importance(rows: Rows) -> None:
    """Divide the importance weights `[n_batches, batch_size]` of a block, if it has any, by each batch's largest."""
    if "importance" in rows:
        rows["importance"] /= rows["importance"].max(axis=1, keepdims=True)
