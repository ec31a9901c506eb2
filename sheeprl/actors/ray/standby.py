"""Standby processes for players: they replace lost players without the delay of a process start."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress

from sheeprl.actors.handle import Handle, LostError
from sheeprl.actors.interfaces import PlayerProcessInterface

LOOK_AFTER = 1.0  # seconds between two checks of the standby processes


def run_at_idle_priority(do: Callable[[], None]) -> None:
    """Run a function on otherwise idle CPUs, so that it doesn't delay players.

    It runs in a separate thread, since an unprivileged thread can't raise its priority again.

    Raises:
        Exception: raised by the function.
    """
    failed: list[BaseException] = []

    def run() -> None:
        """Run the function at idle priority and store its exception."""
        if hasattr(os, "SCHED_IDLE"):  # Linux
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        try:
            do()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


class StandbyPool:
    """Processes that can become players.

    The pool is empty until the first player is lost, so that a run without losses doesn't pay for it. It starts a
    process only if the cluster has room, since a pending actor would make an autoscaler add a node.

    Args:
        number: number of standby processes.
        make: starts a process; its argument is True for a standby process.
        has_room: returns True if the cluster has room for one more process.
        leaving: returns the ids of the nodes that are being drained.
    """

    def __init__(
        self, number: int, make: Callable[[bool], Handle], has_room: Callable[[], bool], leaving: Callable[[], set[str]]
    ) -> None:
        """Make an empty pool."""
        self.number, self.make, self.has_room, self.leaving = number, make, has_room, leaving
        self._ready: list[tuple[Handle, str]] = []  # each with the id of its node
        self._starting: Handle | None = None
        self._keeping: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Return the number of processes that are ready."""
        return len(self._ready)

    def take(self) -> Handle:
        """Return a process for a player, a standby process if there is one, and start to fill the pool."""
        if self._keeping is None and self.number:
            self._keeping = asyncio.ensure_future(self._keep())
        leaving = self.leaving() if self._ready else set()
        while self._ready:
            handle, node = self._ready.pop(0)
            if node not in leaving:
                return handle
            handle.close()
        return self.make(False)

    async def _keep(self) -> None:
        """Keep the pool filled. Processes start one at a time, since a start takes CPU time from the players."""
        while True:
            await asyncio.sleep(LOOK_AFTER)
            for spare in list(self._ready):
                if await self._node_of(spare[0]) is None and spare in self._ready:  # `take` may have removed it
                    self._ready.remove(spare)
            if len(self._ready) < self.number and self.has_room():
                self._starting = self.make(True)
                if node := await self._node_of(self._starting):
                    self._ready.append((self._starting, node))
                self._starting = None

    async def _node_of(self, handle: Handle) -> str | None:
        """Return the id of a process's node; None if the process is lost."""
        with suppress(LostError):
            return await handle.call(PlayerProcessInterface.node)
        return None

    def close(self) -> None:
        """End the standby processes."""
        for handle, _ in self._ready:
            handle.close()
        if self._starting is not None:
            self._starting.close()
        self._ready, self._starting, self._keeping = [], None, None
