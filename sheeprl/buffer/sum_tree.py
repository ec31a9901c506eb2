"""A tree of sums over an array of weights, drawn from and updated many at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sheeprl.buffer.streams import Slots

Weights = npt.NDArray[np.float64]
TOP = 8192  # nodes of the highest level, which is summed anew for every draw: it is short enough for the cache


class SumTree:
    """Sums over pairs, pairs of pairs and so on, up to a level of at most `TOP` nodes.

    Every sum is recomputed from its two parts, so that rounding errors don't add up.

    Args:
        leaves: `[n]` weights, none negative, n even. They are kept, not copied: change them by `update` only.
    """

    def __init__(self, leaves: Weights) -> None:
        self.leaves = leaves
        self.levels: list[Weights] = []  # from pairs of leaves to the top
        size = len(leaves)
        while size > TOP:
            size = even(size // 2)
            self.levels.append(np.zeros(size))
        self.rebuild()

    def rebuild(self) -> None:
        """Sum everything anew."""
        below = self.leaves
        for level in self.levels:
            np.add(below[0::2], below[1::2], out=level[: len(below) // 2])
            below = level

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return float(self._top.sum())

    @property
    def _top(self) -> Weights:
        return self.levels[-1] if self.levels else self.leaves

    def update(self, leaves: Slots, weights: Any) -> None:
        """Set the weights of some leaves; of one that is named twice, the later weight counts."""
        self.leaves[leaves] = weights
        below, nodes = self.leaves, leaves
        for level in self.levels:
            nodes = nodes >> 1
            pairs = below.reshape(-1, 2).take(nodes, axis=0)
            level[nodes] = pairs[:, 0] + pairs[:, 1]
            below = level

    def find(self, heights: Weights) -> Slots:
        """The leaf in which each height falls, when all weights are stacked in order.

        Args:
            heights: from 0 to `total`; ascending ones are found faster.
        """
        stack = self._top.cumsum()
        nodes = np.minimum(stack.searchsorted(heights, side="right"), len(stack) - 1)
        rest = heights - stack.take(nodes) + self._top.take(nodes)
        for below in [*self.levels[-2::-1], self.leaves] if self.levels else []:
            nodes <<= 1
            left = below.take(nodes, mode="clip")  # rounding may lead past the end
            goes_right = rest >= left
            left *= goes_right
            rest -= left
            nodes += goes_right
        nodes = np.minimum(nodes, len(self.leaves) - 1)
        if (empty := self.leaves.take(nodes) == 0).any():  # rounding put the height a hair beside its leaf
            nodes[empty] = self._nearest(nodes[empty])
        return nodes

    def _nearest(self, nodes: Slots) -> Slots:
        """The next leaf with a weight, or the last one."""
        weighty = np.flatnonzero(self.leaves)
        return weighty[np.minimum(weighty.searchsorted(nodes), len(weighty) - 1)]


def even(size: int) -> int:
    """Leaves to have for at least `size` weights, so that none is without its neighbour."""
    return size + size % 2
