"""Finds environments that hang."""

from __future__ import annotations

import faulthandler
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

REARM = 1.0  # seconds after which the last resort is set anew


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
        self._watching = False
        self._rearmed = -REARM

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what is done meanwhile, each part of it for itself that `begin` tells of."""
        if self.seconds is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGALRM, self._interrupt)
        self._watching = True
        try:
            yield
        finally:
            self._watching = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            if self.last_resort:
                faulthandler.cancel_dump_traceback_later()
                self._rearmed = -REARM

    def begin(self) -> None:
        """Something begins that may take `seconds`. Costs a microsecond."""
        if not self._watching or self.seconds is None:
            return
        # Again and again: code that catches every exception may have caught the first.
        signal.setitimer(signal.ITIMER_REAL, self.seconds, self.seconds)
        if self.last_resort and (now := time.monotonic()) - self._rearmed >= REARM:
            self._rearmed = now
            faulthandler.dump_traceback_later(2 * self.seconds + 2 * REARM, exit=True)

    def _interrupt(self, number: int, frame: FrameType | None) -> NoReturn:
        raise StepTimeoutError(f"it took more than {self.seconds:g} s (players.step_timeout)")
