"""Players' processes that are kept ready, so that the others needn't wait while the place of a lost one is filled."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress

from sheeprl.actors.handle import Handle, LostError

LOOK_AFTER = 1.0  # seconds between two looks at whether they are all there


def run_at_idle_priority(do: Callable[[], None]) -> None:
    """Do something on CPUs that nobody else wants just now, so that players that wake up needn't wait for it.

    It is done in a thread of its own: without privileges a thread can't take its priority back.

    Raises:
        Exception: whatever was raised.
    """
    failed: list[BaseException] = []

    def at_last() -> None:
        if hasattr(os, "SCHED_IDLE"):  # Linux
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        try:
            do()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=at_last)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


class StandbyPool:
    """Processes of players that are nobody yet.

    None is started before the first player is lost: a run that loses none doesn't pay for them, and one that does waits
    once. None is asked for that the cluster has no room for, which would have an autoscaler add a node.

    Args:
        number: how many to keep.
        make: starts one, in reserve or for a player that waits.
        has_room: whether the cluster has room for one more.
        leaving: ids of the nodes that are going to be taken away.
    """

    def __init__(
        self, number: int, make: Callable[[bool], Handle], has_room: Callable[[], bool], leaving: Callable[[], set[str]]
    ) -> None:
        self.number, self.make, self.has_room, self.leaving = number, make, has_room, leaving
        self._ready: list[tuple[Handle, str]] = []  # each with its node's id
        self._starting: Handle | None = None
        self._keeping: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._ready)

    def take(self) -> Handle:
        """A process for a player, one that is ready if there is one; from now on others are kept."""
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
        """See to it that they are there: one after the other, as their start takes from the players' CPUs."""
        while True:
            await asyncio.sleep(LOOK_AFTER)
            for spare in list(self._ready):
                if await self._node_of(spare[0]) is None and spare in self._ready:  # not taken meanwhile
                    self._ready.remove(spare)
            if len(self._ready) < self.number and self.has_room():
                self._starting = self.make(True)
                if node := await self._node_of(self._starting):
                    self._ready.append((self._starting, node))
                self._starting = None

    async def _node_of(self, handle: Handle) -> str | None:
        """The node that a process is on; None if it is lost."""
        with suppress(LostError):
            return str(await handle.call("node"))
        return None

    def close(self) -> None:
        """End them."""
        for handle, _ in self._ready:
            handle.close()
        if self._starting is not None:
            self._starting.close()
        self._ready, self._starting, self._keeping = [], None, None
