"""Queries of the cluster's control store that neither block the event loop nor fail with the store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
ANSWER_SECONDS = 5.0  # time that one call of a query waits for the store


class SteadyQuery(Generic[T]):
    """A query that runs in a thread. While the control store doesn't answer, its last result stands.

    The thread is a daemon, since a query of a stopped store may hang and must not delay the end of the process.

    Args:
        query: asks the store; may raise or hang.
        first: the result until the first answer.
    """

    def __init__(self, query: Callable[[], T], first: T) -> None:
        """Store the query; the first call starts it."""
        self.query, self.newest = query, first
        self.failures = 0  # queries in a row that failed
        self._running: asyncio.Future[None] | None = None

    async def __call__(self, seconds: float = ANSWER_SECONDS) -> T:
        """Return the newest result, after a new query unless one is already running.

        Args:
            seconds: time to wait for the query's end.
        """
        if self._running is None or self._running.done():
            loop = asyncio.get_running_loop()
            self._running = loop.create_future()
            threading.Thread(target=self._run, args=(loop, self._running), daemon=True).start()
        await asyncio.wait({self._running}, timeout=seconds)
        return self.newest

    def _run(self, loop: asyncio.AbstractEventLoop, answered: asyncio.Future[None]) -> None:
        """Ask the store in this thread and store its answer."""
        try:
            self.newest, self.failures = self.query(), 0
        except Exception:  # Ray raises several types while its control store is away
            self.failures += 1
        try:
            loop.call_soon_threadsafe(_end, answered)
        except RuntimeError:  # the run has ended
            return


def _end(answered: asyncio.Future[None]) -> None:
    """Mark a query as answered."""
    if not answered.done():
        answered.set_result(None)
