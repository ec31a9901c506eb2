"""Format text for messages."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return a number with its noun in singular or plural, as in `1 episode` and `2,000 episodes`."""
    return f"{number:,} {noun}" + "s" * (number != 1)


def byte_size(count: float) -> str:
    """Return a number of bytes in MiB, or in GiB if it is large, as in `1.5 MiB` and `3.0 GiB`."""
    return f"{count / 2**20:,.1f} MiB" if count < 2**30 else f"{count / 2**30:,.1f} GiB"
