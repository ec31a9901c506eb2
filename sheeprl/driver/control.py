"""Signals, the watchdog process and the services of a run: everything that ends it from outside."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sheeprl.callbacks.base import Callback
from sheeprl.envs.timeout import StopRequest
from sheeprl.metrics.watchdog import Watchdog, is_alive, watched
from sheeprl.utils.errors import RunFailedError, shell_command
from sheeprl.utils.process import StopSignals

SERVICE_CHECK_SECONDS = 1.0


@dataclass
class Control:
    """Ways to end a run from outside.

    Args:
        signals: signals that stop this process.
        environments: request that interrupts the environments of this process.
        services: ids of processes that the run depends on, by description.
        report: shows a message of this process, by the reporter as soon as it is open.
        callbacks: callbacks of the user.
        open_settings: settings with defaults of the trainers' machine, as `Resolved.open_settings`.
    """

    signals: StopSignals
    watchdog: Watchdog = field(init=False)
    environments: StopRequest = field(default_factory=StopRequest)
    services: dict[str, int] = field(default_factory=dict)
    report: Callable[[str], None] = lambda text: None
    callbacks: Sequence[Callback] = ()
    open_settings: Collection[str] = ()

    def check_services(self) -> None:
        """Check that all services run.

        Raises:
            RunFailedError: a service died.
        """
        for name, pid in self.services.items():
            if not is_alive(pid):
                raise RunFailedError(f"{name} on this machine died")

    @contextmanager
    def watched(self, run_dir: Path, start_over: str) -> Iterator[None]:
        """Start a watchdog process for the block. It reports a hard end of this process in the run's folder.

        Args:
            run_dir: folder of the run.
            start_over: advice for a run without a checkpoint.
        """
        with watched(run_dir, shell_command("resume", run_dir), start_over) as self.watchdog:
            self.signals.before_exit = lambda number: self.watchdog.announce(
                f"it did not stop on {signal.Signals(number).name}", "interrupted"
            )
            yield

    async def wait_unless_services_die(self, *futures: asyncio.Future[Any]) -> None:
        """Wait for the first of several futures to end, then cancel the first argument if it isn't done.

        Raises:
            RunFailedError: a service of the run died.
        """
        try:
            while not any(future.done() for future in futures):
                await asyncio.wait(futures, timeout=SERVICE_CHECK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if not futures[0].done():
                    self.check_services()
            if futures[0].done() and not futures[0].cancelled() and futures[0].exception() is not None:
                self.check_services()  # a dead service explains the other failure
        finally:
            if not futures[0].done():
                futures[0].cancel()
                await asyncio.wait({futures[0]})
