"""Metrics of gradient steps, in one tensor per call for any number of steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sheeprl.algos.base import Phase


@dataclass(frozen=True)
class Table:
    """Metrics of several gradient steps.

    Args:
        names: names of the metrics.
        values: `[steps, metrics]`.
    """

    names: Sequence[str]
    values: Tensor

    @classmethod
    def of(cls, names: Sequence[str], metrics: Sequence[Tensor]) -> Table:
        """Return the table of one step's scalar metrics."""
        values = [value.detach().float().reshape(()) for value in metrics]
        return cls(list(names), torch.stack(values)[None] if values else torch.zeros(1, 0))

    def last(self) -> dict[str, Tensor]:
        """Return the metrics of the last step."""
        return dict(zip(self.names, self.values[-1].unbind(), strict=True))


def norm_names(phases: Sequence[Phase]) -> list[str]:
    """Return the names of the gradient norms, for each group of each phase; a group may have several in a step."""
    return [f"Grads/{name}" for phase in phases for name in phase.groups]


def means_of(tables: Sequence[Table]) -> dict[str, float]:
    """Return the mean of every metric over the steps that have it. The tables must be on the CPU."""
    sums, counts = defaultdict[str, float](float), defaultdict[str, int](int)
    for table in tables:
        for name, total in zip(table.names, table.values.sum(0, dtype=torch.float64).tolist(), strict=True):
            sums[name] += total
            counts[name] += len(table.values)
    return {name: total / counts[name] for name, total in sums.items()}
