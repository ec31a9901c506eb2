"""Source of time of a run: the wall clock, or a virtual clock in tests."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Source of time."""

    def time(self) -> float:
        """Return seconds since an arbitrary start."""
        ...


class WallClock:
    """Monotonic real time."""

    def time(self) -> float:
        """Return seconds since an arbitrary start."""
        return time.monotonic()
