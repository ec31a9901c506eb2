"""Awaitable handles: the one way in which the run speaks to players, buffer and learner, wherever these live.

`handle.call("sample", 4)` starts a method and returns a reference at once. Awaiting the reference gives the result;
passing it to another call hands the result over without the run ever seeing it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Protocol


class LostError(RuntimeError):
    """Who was asked is gone, and all that it held. Not for failures of its own code."""


class DataLostError(RuntimeError):
    """What was to be passed on is gone, though who was asked is well."""


class Ref(Protocol):
    """A result that may still be under way."""

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the result.

        Raises:
            LostError: its actor died.
            Exception: whatever the method raised.
        """
        ...


class Handle(Protocol):
    """Something whose methods are called from afar."""

    def call(self, method: str, *args: Any) -> Ref:
        """Start a method. References among the arguments are replaced by what they refer to.

        Where a reference stands for a call to several ranks, that is what the first of them returned.
        """
        ...

    def call_pair(self, method: str, *args: Any) -> tuple[Ref, Ref]:
        """Start a method that returns a pair, of which one half may be awaited and the other passed on."""
        ...

    def close(self) -> None:
        """Let go of it; an actor ends."""
        ...


@dataclass(frozen=True)
class AllRanks:
    """An argument that stands for the results of all ranks, one argument each, where a call went to several."""

    ref: Any


class LocalRef:
    """The outcome of a call that was carried out at once in this process."""

    def __init__(self, value: Any = None, error: Exception | None = None) -> None:
        self.value, self.error = value, error

    def __await__(self) -> Generator[Any, None, Any]:
        # Other coroutines and signal handlers get their turn, as they would while a remote call is under way.
        yield from asyncio.sleep(0).__await__()
        return self.get()

    def get(self) -> Any:
        """The value, or raise."""
        if self.error is not None:
            raise self.error
        return self.value


class LocalHandle:
    """Calls an object of this process, in the order of the calls."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def call(self, method: str, *args: Any) -> LocalRef:
        """Carry the method out now."""
        try:
            refs = [arg.ref if isinstance(arg, AllRanks) else arg for arg in args]
            values = [ref.get() if isinstance(ref, LocalRef) else ref for ref in refs]
            return LocalRef(getattr(self.target, method)(*values))
        except Exception as error:
            return LocalRef(error=error)

    def call_pair(self, method: str, *args: Any) -> tuple[LocalRef, LocalRef]:
        """Carry the method out now and split its result."""
        ref = self.call(method, *args)
        if ref.error is not None:
            return ref, ref
        first, second = ref.value
        return LocalRef(first), LocalRef(second)

    def close(self) -> None:
        """Close the object, if it can be closed."""
        close = getattr(self.target, "close", None)
        if close is not None:
            close()


def consume_exception(future: asyncio.Future[Any]) -> None:
    """Look at a failure that nobody may be waiting for, so that asyncio doesn't print it."""
    if not future.cancelled():
        future.exception()
