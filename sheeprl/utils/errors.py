"""What can become of a run, beside its result."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any


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


async def require(answer: Awaitable[Any], who: str, passing: tuple[type[Exception], ...] = ()) -> Any:
    """Wait for something without which the run can't go on.

    Raises:
        RunFailedError: it failed; not in one of the ways that are `passing`, which the caller knows how to mend.
    """
    try:
        return await answer
    except RunFailedError:
        raise
    except passing:
        raise
    except Exception as error:
        raise RunFailedError(f"{who} failed: {one_line(error)}", getattr(error, "trace", "")) from error


class ConfigError(Exception):
    """The user's input is wrong: one line a mistake in `mistakes`."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = [" ".join(mistake.splitlines()) for mistake in mistakes]
        super().__init__(self.mistakes)  # args are what a copy from another process is made of

    def __str__(self) -> str:
        return "\n".join(self.mistakes)
