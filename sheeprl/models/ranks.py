"""Rows of all ranks inside of a loss, for statistics of the whole batch that a loss uses, such as percentiles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import torch
from torch import Tensor


class Ranks(Protocol):
    """Process group of the trainer."""

    rank: int
    """Number of this rank."""
    world: int
    """Number of ranks."""

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over the ranks."""
        ...


_group: ContextVar[Ranks | None] = ContextVar("group", default=None)


@contextmanager
def trainer_group(ranks: Ranks) -> Iterator[None]:
    """Make a process group the one of `all_rows` within the context."""
    token = _group.set(ranks)
    try:
        yield
    finally:
        _group.reset(token)


def all_rows(rows: Tensor) -> Tensor:
    """Return the rows of all ranks, one rank's after the other's: `[N, *]` to `[ranks × N, *]`, detached.

    All ranks must have the same number of rows. Outside of a gradient step, and with one rank, the rows are returned.
    """
    ranks, rows = _group.get(), rows.detach()
    if ranks is None or ranks.world == 1:
        return rows
    zeros = torch.zeros_like(rows)
    parts = [rows if rank == ranks.rank else zeros for rank in range(ranks.world)]
    return ranks.sum(torch.cat(parts))
