"""What can become of a run, beside its result."""

from __future__ import annotations


class RunFailedError(RuntimeError):
    """The run ended before its time.

    Args:
        reason: why, in one line.
        trace: where it was raised, if that was in another process.
    """

    def __init__(self, reason: str, trace: str = "") -> None:
        super().__init__(reason)
        self.reason, self.trace = reason, trace


def one_line(error: BaseException) -> str:
    """The first line of what an error says, for messages; Ray's go on for a page."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
