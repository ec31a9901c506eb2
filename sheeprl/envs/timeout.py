"""Finds environments that hang."""

from __future__ import annotations

import faulthandler
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

LOOKS = 8  # at a step, in the time that it may take
LEAST = 0.001  # seconds between two looks


class StepTimeoutError(TimeoutError):
    """A step or reset took too long."""


class StepWatch:
    """Interrupts a step that takes too long, by a signal, wherever Python code of it waits or runs.

    Only in the main thread, which alone gets signals; elsewhere nothing is watched.

    Args:
        seconds: that a step or reset may take; None for any time.
        last_resort: whether to end the process if a step doesn't even notice the signal, because it is stuck in C.
    """

    def __init__(self, seconds: float | None, last_resort: bool = False) -> None:
        self.seconds, self.last_resort = seconds, last_resort
        self._began = math.inf

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what is done meanwhile, each part of it for itself that `begin` tells of."""
        if self.seconds is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        self._began = math.inf
        before = signal.signal(signal.SIGALRM, self._look)
        self._postpone()
        # A timer that is set at every step would be a call to the system at every step.
        interval = max(self.seconds / LOOKS, LEAST)
        signal.setitimer(signal.ITIMER_REAL, interval, interval)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            if self.last_resort:
                faulthandler.cancel_dump_traceback_later()

    def begin(self) -> None:
        """Something begins that may take `seconds`. Costs a tenth of a microsecond."""
        self._began = time.monotonic()

    def _look(self, number: int, frame: FrameType | None) -> None:
        """Interrupt what takes too long, again and again: code that catches every exception may have caught the first.

        Raises:
            StepTimeoutError: it does.
        """
        assert self.seconds is not None
        if time.monotonic() - self._began > self.seconds:
            raise StepTimeoutError(f"it took more than {self.seconds:g} s (players.step_timeout)")
        self._postpone()

    def _postpone(self) -> None:
        """Put the last resort off: it comes twice `seconds` after the last look that found the step in time."""
        if self.last_resort and self.seconds is not None:
            faulthandler.dump_traceback_later(2 * self.seconds, exit=True)
