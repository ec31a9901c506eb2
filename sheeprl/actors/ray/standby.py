"""Standby processes: they replace lost hosts of players without the delay of a process start."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from sheeprl.actors.handle import HostHandle, LostError
from sheeprl.actors.interfaces import HostInterface

LOOK_AFTER = 1.0  # seconds between two checks of the standby processes


class StandbyPool:
    """Processes that can become hosts of players.

    The pool is empty until the first host is lost, so that a run without losses doesn't pay for it. It starts a
    process only if the cluster has room, since a pending actor would make an autoscaler add a node.

    Args:
        number: number of standby processes.
        make: starts a process of a name.
        has_room: returns True if the cluster has room for one more process.
        leaving: returns the ids of the nodes that are being drained.
    """

    def __init__(
        self,
        number: int,
        make: Callable[[str], HostHandle],
        has_room: Callable[[], Awaitable[bool]],
        leaving: Callable[[], set[str]],
    ) -> None:
        """Make an empty pool."""
        self.number, self.make, self.has_room, self.leaving = number, make, has_room, leaving
        self._nodes: dict[HostHandle, str | None] = {}  # node of each process, None while it starts
        self._keeping: asyncio.Task[None] | None = None
        self._made = 0

    def __len__(self) -> int:
        """Return the number of processes that are ready."""
        return sum(node is not None for node in self._nodes.values())

    def take(self, name: str) -> HostHandle:
        """Return a process for a host, a standby process if there is one, and start to fill the pool.

        Args:
            name: name of a new process.
        """
        if self._keeping is None and self.number:
            self._keeping = asyncio.ensure_future(self._keep())
        leaving = self.leaving() if self._nodes else set()
        for handle in [handle for handle, node in self._nodes.items() if node is not None]:
            if self._nodes.pop(handle) not in leaving:
                return handle
            handle.close()
        return self.make(name)

    async def _keep(self) -> None:
        """Keep the pool filled. Processes start one at a time, since a start takes CPU time from the players."""
        while True:
            await asyncio.sleep(LOOK_AFTER)
            if len(self._nodes) < self.number and await self.has_room():
                self._nodes[self.make(f"standby:{self._made}")] = None
                self._made += 1
            for handle in list(self._nodes):
                await self._look_at(handle)

    async def _look_at(self, handle: HostHandle) -> None:
        """Store the node of a process, or forget the process if it is lost."""
        node = None
        with suppress(LostError):
            node = await handle.call(HostInterface.node)
        if handle in self._nodes and node is not None:  # `take` may have removed it
            self._nodes[handle] = node
        elif node is None:
            self._nodes.pop(handle, None)

    def close(self) -> None:
        """End the standby processes."""
        for handle in self._nodes:
            handle.close()
        self._nodes, self._keeping = {}, None
