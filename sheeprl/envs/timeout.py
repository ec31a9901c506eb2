"""Interruption of environment operations: of steps that hang, and of all of them when a run has to stop."""

from __future__ import annotations

import faulthandler
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

CHECKS = 8  # timer ticks within one timeout
MIN_INTERVAL = 0.001  # seconds between two ticks
STOP_INTERVAL = 0.2  # seconds between two ticks after a stop request, which an environment may catch


class StepTimeoutError(TimeoutError):
    """Raised when a step or reset exceeds `players.step_timeout`."""


class StoppedError(RuntimeError):
    """Raised in an operation on environments that a stop request interrupts."""


class StopRequest:
    """A request that the operations on the environments of this process end, such as a signal makes."""

    def __init__(self) -> None:
        """Store the arguments."""
        self.made_at = math.inf
        self.patience = 0.0
        self.on_change: Callable[[], None] | None = None  # set while operations run

    @property
    def is_made(self) -> bool:
        """Return True once the request is made."""
        return self.made_at < math.inf

    def make(self, patience: float) -> None:
        """Make the request; the first one counts.

        Args:
            patience: seconds that the collection of a fragment or an evaluation may still take.
        """
        if self.is_made:
            return
        self.made_at, self.patience = time.monotonic(), patience
        if self.on_change is not None:
            self.on_change()

    @property
    def is_ignored(self) -> bool:
        """Return True if operations go on after the deadline."""
        return self.on_change is not None and time.monotonic() > self.deadline

    @property
    def deadline(self) -> float:
        """Return the time, by the monotonic clock, at which operations are interrupted."""
        return self.made_at + self.patience


class StepWatch:
    """Interrupts a slow step with a signal, at any point of its Python code.

    Python delivers signals to the main thread only; in other threads the timeout has no effect.

    Args:
        seconds: limit of a step or reset; None for no limit.
        last_resort: end the process if a step is stuck in C code and doesn't handle the signal.
        stop: request that interrupts operations before their limit.
        setting: name of the limit, for messages.
        errors: file descriptor for the traceback of the last resort.
    """

    def __init__(
        self,
        seconds: float | None,
        last_resort: bool = False,
        stop: StopRequest | None = None,
        setting: str = "players.step_timeout",
        errors: int = 2,
    ) -> None:
        """Store the limit; `watching` applies it."""
        self.errors = errors
        self.seconds, self.last_resort, self.setting = seconds, last_resort, setting
        self.stop = stop or StopRequest()
        self._began = math.inf

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Apply the timeout within the block, to each operation that `begin` starts."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._began = math.inf
        before = signal.signal(signal.SIGALRM, self._look)
        self.stop.on_change = self._set_timer
        self._postpone()
        self._set_timer()
        try:
            yield
        finally:
            self.stop.on_change = None
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            if self.last_resort:
                faulthandler.cancel_dump_traceback_later()

    def begin(self) -> None:
        """Start the clock of one operation. Costs about 0.1 µs."""
        self._began = time.monotonic()

    def check(self) -> None:
        """Raise StoppedError if a stop request interrupts the block now; also works outside the main thread."""
        if time.monotonic() >= self.stop.deadline:
            raise StoppedError("interrupted because the run stops")

    def _set_timer(self) -> None:
        """Start the periodic timer, which avoids one system call per step."""
        interval = math.inf if self.seconds is None else max(self.seconds / CHECKS, MIN_INTERVAL)
        first = min(interval, max(self.stop.deadline - time.monotonic(), MIN_INTERVAL))
        if self.stop.is_made:
            interval = min(interval, STOP_INTERVAL)
        if first < math.inf:
            signal.setitimer(signal.ITIMER_REAL, first, interval)

    def _look(self, number: int, frame: FrameType | None) -> None:
        """Interrupt a slow operation at every tick: the environment may catch the first exception.

        Raises:
            StepTimeoutError: the operation exceeds the limit.
            StoppedError: a stop request interrupts the block.
        """
        self.check()
        if self.seconds is not None and time.monotonic() - self._began > self.seconds:
            raise StepTimeoutError(f"it took more than {self.seconds:g} s ({self.setting})")
        self._postpone()

    def _postpone(self) -> None:
        """Postpone the end of the process to twice `seconds` from now."""
        if self.last_resort and self.seconds is not None:
            faulthandler.dump_traceback_later(2 * self.seconds, exit=True, file=self.errors)
