"""Flush denormal numbers to zero: a processor computes with them up to a hundred times slower.

Denormals are the numbers between zero and the smallest normal one, 1e-38 for float32. Adam's moments of a parameter
whose gradient stays zero decay to them and stay there, because 0.9 times the smallest ones rounds to the same number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

GRAIN = 32_768  # elements of one thread in torch's elementwise operations


@contextlib.contextmanager
def flushed_denormals() -> Iterator[None]:
    """Flush denormals to zero during the block, in this thread and in threads that it starts.

    Environments compute outside of such blocks, because their results would change.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def start_flushing_threads(count: int) -> None:
    """Start torch's `count` threads, if they haven't been started, such that they flush denormals, too."""
    with flushed_denormals():
        torch.ones(count * GRAIN).neg_()
