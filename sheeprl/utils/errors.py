"""Errors of a run and of its configuration."""

from __future__ import annotations

import os
import re
import reprlib
import shlex
import sysconfig
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sheeprl.utils.text import byte_size

LIBRARIES = ("site-packages", "dist-packages")
SMALLER = "use smaller networks, batches or sequences"


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


class AlgorithmError(RuntimeError):
    """Raised when a function of an algorithm fails or returns a wrong result. To repeat the call doesn't help.

    Args:
        reason: the function, the exception and what was expected, in one line.
        trace: traceback of the exception.
    """

    is_final = True

    def __init__(self, reason: str, trace: str = "") -> None:
        """Store the reason and the traceback."""
        super().__init__(reason, trace)
        self.reason, self.trace = reason, trace

    def __str__(self) -> str:
        """Return the reason."""
        return self.reason


@contextmanager
def naming_function(name: str, known: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Name an algorithm's function in the errors of the block.

    Args:
        name: name of the function.
        known: returns what the function got, such as the keys of its batch; called after a failure.

    Raises:
        AlgorithmError: the block raised an exception other than an AlgorithmError.
    """
    try:
        yield
    except AlgorithmError:
        raise
    except Exception as error:
        hint = f"; {known()}" if isinstance(error, (KeyError, AttributeError)) and known() else ""
        raise AlgorithmError(f"{name} raised {describe(error)}{hint}", traceback.format_exc()) from error


def describe(error: BaseException) -> str:
    """Return the type, the message and the place of an error in the user's code, in one line."""
    text = " ".join(f"{type(error).__name__}: {_message(error)}".split())
    place = user_place(error)
    return f"{text} ({place})" if place else text


def user_place(error: BaseException) -> str:
    """Return the file and the line of the innermost call in the user's code, "" if there is none."""
    ours, standard = str(Path(__file__).parents[1]), sysconfig.get_path("stdlib")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        is_library = any(name in Path(frame.filename).parts for name in LIBRARIES)
        if not is_library and not frame.filename.startswith((ours + os.sep, standard + os.sep, "<")):
            return f"{frame.filename}:{frame.lineno}"
    return ""


def one_line(error: BaseException) -> str:
    """Return the first line of an error, for messages; the errors of Ray have many lines."""
    lines = _message(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _message(error: BaseException) -> str:
    """Return the message of an error; that of torch about full memory in plain words."""
    text = str(error).strip()
    if missing := re.search(r"DefaultCPUAllocator: .*you tried to allocate (\d+) bytes", text):
        return f"the memory is full: {byte_size(int(missing[1]))} more can't be allocated; {SMALLER}"
    return text


def shell_command(*words: object) -> str:
    """Return a call of `sheeprl` that can be pasted into a shell, whatever its paths contain."""
    return shlex.join(["sheeprl", *(f"./{word}" if str(word).startswith("-") else str(word) for word in words)])


def short_repr(value: object, length: int = 80) -> str:
    """Return the representation of a value for messages: one line of about `length` characters without addresses."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = length
    return re.sub(r" at 0x[0-9a-f]+", "", " ".join(short.repr(value).split()))


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


@contextmanager
def collecting(mistakes: list[str]) -> Iterator[None]:
    """Append the mistakes of a ConfigError within the block to a list instead of raising it."""
    try:
        yield
    except ConfigError as error:
        mistakes += error.mistakes
