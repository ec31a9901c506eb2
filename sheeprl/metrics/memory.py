"""Announce the memory that a run needs."""

from __future__ import annotations

from collections.abc import Callable

from sheeprl.config.schema import Config
from sheeprl.utils.text import counted


class MemoryReport:
    """Announces the sizes of replay and networks of an off-policy run, each once, as soon as it is known.

    Args:
        config: configuration of the run.
        report: called with a message.
    """

    def __init__(self, config: Config, report: Callable[[str], None]) -> None:
        """Remember where the replay is."""
        self.config, self.report = config, report
        self._announced: set[str] = set()

    def announce(self, replay: int, networks: int) -> None:
        """Report sizes in bytes; 0 is not known yet."""
        if not self.config.algo.data().is_off_policy:
            return
        place = "in memory-mapped files" if self.config.buffer.memmap else "of memory"
        rows = counted(self.config.buffer.size or 0, "row")
        self._once("replay", replay, f"{place} once all {rows} of buffer.size are stored")
        self._once("networks", networks, "of memory per rank, with gradients and the state of the optimizers")

    def _once(self, name: str, size: int, about: str) -> None:
        """Report a size unless it is unknown or already reported."""
        if size and name not in self._announced:
            self._announced.add(name)
            self.report(f"{name}: {readable(size)} {about}")


def readable(size: int) -> str:
    """Return a number of bytes in MiB, or in GiB if it is large."""
    return f"{size / 2**20:,.1f} MiB" if size < 2**30 else f"{size / 2**30:,.1f} GiB"
