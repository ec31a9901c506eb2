"""Handles: the driver calls players, replay and learner through them, in this process or in another.

`handle.call(ReplayInterface.sample, 4, 0.5)` starts a method and returns a reference at once. Awaiting the reference
gives the result. Passing the reference to another call hands over the result without moving it through the driver.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
T_co = TypeVar("T_co", covariant=True)


class LostError(RuntimeError):
    """Raised when an actor died and its state is lost. Exceptions of the actor's code are raised unchanged.

    Args:
        message: the cause.
        with_node: True if its node was lost, too, as at a preemption.
    """

    def __init__(self, message: str, with_node: bool = False) -> None:
        """Store the cause."""
        super().__init__(message)
        self.with_node = with_node


class DataLostError(RuntimeError):
    """Raised when an argument of a call is lost, although the called actor is alive."""


class Ref(Protocol[T_co]):
    """A result that may not be available yet."""

    def __await__(self) -> Generator[Any, None, T_co]:
        """Wait for the result.

        Raises:
            LostError: the actor died.
            Exception: raised by the method.
        """
        ...


class Handle(Protocol):
    """A worker whose methods can be called from the driver.

    Methods are named by their class, such as `PlayerInterface.collect`, and called by that name on the worker.
    Arguments are passed by position only.
    """

    def call(self, method: Callable[Concatenate[Any, P], T], *args: P.args, **kwargs: P.kwargs) -> Ref[T]:
        """Start a method. References among the arguments (see `later`) are replaced by their results.

        A reference to the results of several ranks is replaced by the first rank's result.
        """
        ...

    def call_pair(
        self, method: Callable[Concatenate[Any, P], tuple[A, B]], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[Ref[A], Ref[B]]:
        """Start a method that returns a pair; return one reference for each half."""
        ...

    def close(self) -> None:
        """Release the worker; an actor ends."""
        ...


class HostHandle(Handle, Protocol):
    """A handle that returns each part of a result as a separate reference."""

    def call_parts(
        self, method: Callable[Concatenate[Any, P], Sequence[Any]], count: int, *args: P.args, **kwargs: P.kwargs
    ) -> Sequence[Ref[Any]]:
        """Start a method that returns `count` values; return one reference for each value."""
        ...


@dataclass(frozen=True)
class AllRanks(Generic[T]):
    """An argument that is replaced by the results of all ranks, one argument per rank."""

    ref: Ref[T]


def later(ref: Ref[T] | AllRanks[T]) -> T:
    """Declare that a reference stands for its result in the arguments of a call; return the reference itself."""
    return cast(T, ref)


class PartRef(Generic[T]):
    """A part of the result of a call that combines several calls and is sent after them.

    Args:
        get: returns the reference of the worker's handle, and sends the call if it isn't sent yet.
    """

    def __init__(self, get: Callable[[], Ref[T]]) -> None:
        """Store the function."""
        self.get = get

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for the part."""
        return self.get().__await__()


def own_ref(arg: Any) -> Any:
    """Return an argument of a call, with a part's reference replaced by that of the worker's handle."""
    return arg.get() if isinstance(arg, PartRef) else arg


async def awaited(ref: Ref[T]) -> T:
    """Wait for a reference in a coroutine."""
    return await ref


def method_name(method: Callable[..., Any], keywords: Mapping[str, Any]) -> str:
    """Return the name that a method is called by.

    Raises:
        TypeError: arguments are passed by keyword, which handles don't transport.
    """
    name: str = method.__name__
    if keywords:
        raise TypeError(f"{name}() is called through a handle: pass {', '.join(keywords)} by position")
    return name


class LocalRef(Generic[T]):
    """The outcome of a call that has run in this process."""

    def __init__(self, value: T | None = None, error: Exception | None = None) -> None:
        """Store the outcome."""
        self.value, self.error = value, error

    def __await__(self) -> Generator[Any, None, T]:
        """Return the value, or raise the error of the call."""
        # Other coroutines and signal handlers run here, as they do during a remote call.
        yield from asyncio.sleep(0).__await__()
        return self.get()

    def get(self) -> T:
        """Return the value, or raise the error of the call."""
        if self.error is not None:
            raise self.error
        return cast(T, self.value)


class LocalHandle:
    """Calls the methods of an object in this process, in the order of the calls."""

    def __init__(self, target: Any) -> None:
        """Store the object."""
        self.target = target

    def call(self, method: Callable[Concatenate[Any, P], T], *args: P.args, **kwargs: P.kwargs) -> LocalRef[T]:
        """Run the method now."""
        name = method_name(method, kwargs)
        try:
            refs = [arg.ref if isinstance(arg, AllRanks) else own_ref(arg) for arg in args]
            values = [ref.get() if isinstance(ref, LocalRef) else ref for ref in refs]
            return LocalRef(getattr(self.target, name)(*values))
        except Exception as error:
            return LocalRef(error=error)

    def call_pair(
        self, method: Callable[Concatenate[Any, P], tuple[A, B]], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[LocalRef[A], LocalRef[B]]:
        """Run the method now and split its result."""
        first, second = self.call_parts(method, 2, *args, **kwargs)
        return first, second

    def call_parts(
        self, method: Callable[Concatenate[Any, P], Sequence[Any]], count: int, *args: P.args, **kwargs: P.kwargs
    ) -> list[LocalRef[Any]]:
        """Run the method now and split its result."""
        ref = self.call(method, *args, **kwargs)
        if ref.error is not None:
            return [LocalRef(error=ref.error) for _ in range(count)]
        return [LocalRef(part) for part in ref.get()]

    def close(self) -> None:
        """Close the object if it has a method for that."""
        close = getattr(self.target, "close", None)
        if close is not None:
            close()


def consume_exception(future: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a future, so that asyncio doesn't log it if no caller awaits the future."""
    if not future.cancelled():
        future.exception()
