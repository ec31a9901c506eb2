"""Format text for messages."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return a number with its noun in singular or plural, as in `1 episode` and `2,000 episodes`."""
    return f"{number:,} {noun}" + "s" * (number != 1)


def byte_size(count: float) -> str:
    """Return a number of bytes in KiB, MiB or GiB, as in `27.0 KiB`, `1.5 MiB` and `3.0 GiB`."""
    power, unit = (10, "KiB") if count < 2**20 else (20, "MiB") if count < 2**30 else (30, "GiB")
    return f"{count / 2**power:,.1f} {unit}"
