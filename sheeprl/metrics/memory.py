"""Announce the memory that a run needs."""

from __future__ import annotations

from collections.abc import Callable

from sheeprl.config.schema import Config
from sheeprl.utils.text import byte_size, counted


class MemoryReport:
    """Announces the sizes of replay and networks of an off-policy run, each once, as soon as it is known.

    Args:
        config: configuration of the run.
        report: called with a message.
    """

    def __init__(self, config: Config, report: Callable[[str], None]) -> None:
        """Remember where the replay is; an on-policy run has nothing to announce."""
        place = "in memory-mapped files" if config.buffer.memmap else "of memory"
        rows = counted(config.buffer.size or 0, "row")
        about = {
            "replay": f"{place} once all {rows} of buffer.size are stored",
            "networks": "of memory per rank, with gradients and the state of the optimizers",
        }
        self.report, self._open = report, about if config.algo.data().is_off_policy else {}

    def announce(self, replay: int, networks: int) -> None:
        """Report sizes in bytes; 0 is not known yet."""
        for name, size in {"replay": replay, "networks": networks}.items():
            if size and name in self._open:
                self.report(f"{name}: {byte_size(size)} {self._open.pop(name)}")
