"""Timeout for environment steps that hang."""

from __future__ import annotations

import faulthandler
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CHECKS = 8  # timer ticks within one timeout
MIN_INTERVAL = 0.001  # seconds between two ticks


class StepTimeoutError(TimeoutError):
    """Raised when a step or reset exceeds `players.step_timeout`."""


class StepWatch:
    """Interrupts a slow step with a signal, at any point of its Python code.

    Python delivers signals to the main thread only; in other threads the timeout has no effect.

    Args:
        seconds: limit of a step or reset; None for no limit.
        last_resort: end the process if a step is stuck in C code and doesn't handle the signal.
    """

    def __init__(self, seconds: float | None, last_resort: bool = False) -> None:
        """Store the limit; `watching` applies it."""
        self.seconds, self.last_resort = seconds, last_resort
        self._began = math.inf

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Apply the timeout within the block, to each operation that `begin` starts."""
        if self.seconds is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        self._began = math.inf
        before = signal.signal(signal.SIGALRM, self._look)
        self._postpone()
        # A periodic timer avoids one system call per step.
        interval = max(self.seconds / CHECKS, MIN_INTERVAL)
        signal.setitimer(signal.ITIMER_REAL, interval, interval)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            if self.last_resort:
                faulthandler.cancel_dump_traceback_later()

    def begin(self) -> None:
        """Start the clock of one operation. Costs about 0.1 µs."""
        self._began = time.monotonic()

    def _look(self, number: int, frame: FrameType | None) -> None:
        """Interrupt a slow operation at every tick: the environment may catch the first exception.

        Raises:
            StepTimeoutError: the operation exceeds the limit.
        """
        assert self.seconds is not None
        if time.monotonic() - self._began > self.seconds:
            raise StepTimeoutError(f"it took more than {self.seconds:g} s (players.step_timeout)")
        self._postpone()

    def _postpone(self) -> None:
        """Postpone the end of the process to twice `seconds` from now."""
        if self.last_resort and self.seconds is not None:
            faulthandler.dump_traceback_later(2 * self.seconds, exit=True)
