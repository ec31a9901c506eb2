"""Errors of a run and of its configuration."""

from __future__ import annotations

import reprlib
import shlex
from collections.abc import Awaitable, Sequence
from typing import Any


class RunFailedError(RuntimeError):
    """Raised when a run fails.

    Args:
        reason: the cause, in one line.
        trace: the traceback of an error in another process.
    """

    def __init__(self, reason: str, trace: str = "") -> None:
        """Store the reason and the traceback."""
        super().__init__(reason)
        self.reason, self.trace = reason, trace


def one_line(error: BaseException) -> str:
    """Return the first line of an error, for messages; the errors of Ray have many lines."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def shell_command(*words: object) -> str:
    """Return a call of `sheeprl` that can be pasted into a shell, whatever its paths contain."""
    return shlex.join(["sheeprl", *(f"./{word}" if str(word).startswith("-") else str(word) for word in words)])


def short_repr(value: object, length: int = 80) -> str:
    """Return the representation of a value in one line of about `length` characters, for messages."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = length
    return " ".join(short.repr(value).split())


async def require(answer: Awaitable[Any], component: str, passing: tuple[type[Exception], ...] = ()) -> Any:
    """Await a result that the run can't continue without.

    Args:
        answer: the result.
        component: name of the component, for the message.
        passing: errors that the caller handles; they are raised unchanged.

    Raises:
        RunFailedError: the call failed with another error.
    """
    try:
        return await answer
    except RunFailedError:
        raise
    except passing:
        raise
    except Exception as error:
        raise RunFailedError(f"{component} failed: {one_line(error)}", getattr(error, "trace", "")) from error


class ConfigError(Exception):
    """Raised when the user's input is wrong; `mistakes` has one line per mistake."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        """Store the mistakes, each as one line."""
        self.mistakes = [" ".join(mistake.splitlines()) for mistake in mistakes]
        super().__init__(self.mistakes)  # unpickling in another process calls the class with these args

    def __str__(self) -> str:
        """Return all mistakes, one per line."""
        return "\n".join(self.mistakes)
