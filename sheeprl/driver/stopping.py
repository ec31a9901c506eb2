"""The end of a run that is stopped: no further round begins, and what is in progress gets limited time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from sheeprl.driver.clock import Clock


class Stopping:
    """Request to stop a run.

    Args:
        clock: source of time.
    """

    def __init__(self, clock: Clock) -> None:
        """Start without a request."""
        self.clock = clock
        self._is_set = False
        self._deadline: float | None = None  # for what is in progress
        self._interrupted = asyncio.Event()

    def is_set(self) -> bool:
        """Return True if the run must stop."""
        return self._is_set

    @property
    def is_interrupted(self) -> bool:
        """Return True if the run was stopped with a patience."""
        return self._interrupted.is_set()

    @property
    def is_out_of_patience(self) -> bool:
        """Return True if the patience has ended."""
        return self._deadline is not None and self.clock.time() >= self._deadline

    def stop(self, patience: float | None = None) -> None:
        """Begin no further round.

        Args:
            patience: seconds to wait for rounds and evaluations in progress; None has no limit.
        """
        self._is_set = True
        if patience is not None and not self.is_interrupted:
            self._deadline = self.clock.time() + patience
            self._interrupted.set()

    async def wait_unless_interrupted(self, awaited: Awaitable[Any]) -> Any:
        """Wait for a result. Return None if the run is interrupted and the patience ends first."""
        waiting = asyncio.ensure_future(awaited)
        interrupted = asyncio.ensure_future(self._interrupted.wait())
        try:
            await asyncio.wait({waiting, interrupted}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done() and self._deadline is not None:
                await asyncio.wait({waiting}, timeout=max(0.0, self._deadline - self.clock.time()))
            return waiting.result() if waiting.done() else None
        finally:  # also if the caller is cancelled
            waiting.cancel()
            interrupted.cancel()
