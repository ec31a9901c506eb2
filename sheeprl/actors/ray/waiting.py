"""Wait for actors that have no node yet: report it repeatedly, and give up after `ray.wait_timeout`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sheeprl.actors.handle import awaited, consume_exception

T = TypeVar("T")
WARN_AFTER = 3.0  # seconds of waiting before the first report
REPEAT_AFTER = 30.0  # seconds between two reports
STARTING = "is still starting: the cluster has room, and its actors aren't up yet"
UNSTARTED = "has room in the cluster, but its actors didn't start"


class ClusterError(RuntimeError):
    """Raised when the cluster can't be joined, is too small for the run, or doesn't fit it."""


class Waits:
    """Actors that were requested from Ray and may still be pending.

    Args:
        timeout: `ray.wait_timeout`, in seconds.
        describe: returns the cause of the wait of an actor, for messages; "" if there is room.
        clock: returns the time in seconds.
    """

    def __init__(
        self, timeout: float, describe: Callable[[str], Awaitable[str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start without actors."""
        self.timeout, self.describe, self.clock = timeout, describe, clock
        self.report: Callable[[str], None] = lambda text: None
        self._pending: dict[str, tuple[asyncio.Future[Any], float]] = {}  # first answer and begin, by actor
        self._next: dict[str, float] = {}  # time of the next report, by actor

    def add(self, name: str, answer: Awaitable[Any]) -> None:
        """Watch an actor until its first answer; it replaces an earlier actor of the name."""
        future = asyncio.ensure_future(awaited(answer))
        future.add_done_callback(consume_exception)  # the calls of the actor raise, too
        self._pending[name], self._next[name] = (future, self.clock()), self.clock() + WARN_AFTER

    async def check(self) -> None:
        """Report the actors that are still pending, each when its report is due.

        Raises:
            ClusterError: an actor found no room, or did not start, within the timeout.
        """
        now = self.clock()
        self._pending = {name: entry for name, entry in self._pending.items() if not entry[0].done()}
        for name, (_, began) in list(self._pending.items()):
            if now < self._next[name]:
                continue
            cause = await self.describe(name)
            if not cause and now - began < min(REPEAT_AFTER, self.timeout):
                self._next[name] = min(now + REPEAT_AFTER, began + self.timeout)
                continue  # it is starting
            if now - began >= self.timeout:
                limit = f"within {self.timeout:g} s (ray.wait_timeout)"
                raise ClusterError(f"{name} found no room {limit}: {cause}" if cause else f"{name} {UNSTARTED} {limit}")
            self._next[name] = min(now + REPEAT_AFTER, began + self.timeout)
            left = began + self.timeout - now
            state = f"waits for room in the cluster: {cause}" if cause else STARTING
            self.report(f"{name} {state}; giving up in {left:.0f} s (ray.wait_timeout)")

    async def wait_for(self, name: str, answer: Awaitable[T]) -> T:
        """Wait for a result, with the reports and the limit of `check`.

        Raises:
            ClusterError: it did not arrive within the timeout.
        """
        waiting = asyncio.ensure_future(awaited(answer))
        self._pending[name], self._next[name] = (waiting, self.clock()), self.clock() + min(WARN_AFTER, self.timeout)
        try:
            while not waiting.done():
                await asyncio.wait({waiting}, timeout=max(0.01, self._next[name] - self.clock()))
                if not waiting.done():
                    await self.check()
            return waiting.result()
        finally:
            waiting.cancel()
            self._pending.pop(name, None)
