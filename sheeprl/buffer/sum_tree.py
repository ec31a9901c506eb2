"""Sum tree over an array of weights, with vectorized sampling and updates."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sheeprl.buffer.streams import Slots

Weights = npt.NDArray[np.float64]
TOP = 8192  # maximum nodes of the top level, which every draw sums: small enough for the cache


class SumTree:
    """Levels of pairwise sums, up to a level of at most `TOP` nodes.

    An update recomputes every sum from its two children, so that rounding errors do not accumulate.

    Args:
        leaves: `[n]` non-negative weights, n even. They are not copied; change them with `update` only.
    """

    def __init__(self, leaves: Weights) -> None:
        """Allocate all levels and compute their sums."""
        self.leaves = leaves
        self.levels: list[Weights] = []  # from pairs of leaves to the top
        size = len(leaves)
        while size > TOP:
            size = even(size // 2)
            self.levels.append(np.zeros(size))
        self.rebuild()

    def rebuild(self) -> None:
        """Recompute all sums from the leaves."""
        below = self.leaves
        for level in self.levels:
            np.add(below[0::2], below[1::2], out=level[: len(below) // 2])
            below = level

    @property
    def total(self) -> float:
        """Return the sum of all weights."""
        return float(self._top.sum())

    @property
    def _top(self) -> Weights:
        """Return the top level."""
        return self.levels[-1] if self.levels else self.leaves

    def update(self, leaves: Slots, weights: Any) -> None:
        """Set the weights of leaves. If an index occurs twice, its last weight is used."""
        self.leaves[leaves] = weights
        below, nodes = self.leaves, leaves
        for level in self.levels:
            nodes = nodes >> 1
            pairs = below.reshape(-1, 2).take(nodes, axis=0)
            level[nodes] = pairs[:, 0] + pairs[:, 1]
            below = level

    def find(self, heights: Weights) -> Slots:
        """Return for each height the leaf whose interval of the cumulative sum contains it.

        Args:
            heights: values from 0 to `total`; ascending ones are faster.
        """
        sums = self._top.cumsum()
        nodes = np.minimum(sums.searchsorted(heights, side="right"), len(sums) - 1)
        rest = heights - sums.take(nodes) + self._top.take(nodes)
        for below in [*self.levels[-2::-1], self.leaves] if self.levels else []:
            nodes <<= 1
            left = below.take(nodes, mode="clip")  # rounding can lead past the end
            goes_right = rest >= left
            left *= goes_right
            rest -= left
            nodes += goes_right
        nodes = np.minimum(nodes, len(self.leaves) - 1)
        if (empty := self.leaves.take(nodes) == 0).any():  # rounding moved the height next to its leaf
            nodes[empty] = self._nearest(nodes[empty])
        return nodes

    def _nearest(self, nodes: Slots) -> Slots:
        """Return the next leaf with a positive weight, or else the last one."""
        positive = np.flatnonzero(self.leaves)
        return positive[np.minimum(positive.searchsorted(nodes), len(positive) - 1)]


def even(size: int) -> int:
    """Return `size` rounded up to an even number, so that every node has a sibling."""
    return size + size % 2
