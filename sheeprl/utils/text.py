"""Format text for messages."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return a number with its noun in singular or plural, as in `1 episode` and `2,000 episodes`."""
    return f"{number:,} {noun}" + "s" * (number != 1)
