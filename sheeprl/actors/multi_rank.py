"""Coupled mode with several ranks: every rank collects, stores and learns in one process; rank 0 runs the driver.

Rank 0 calls the ranks' objects through `RankHandle`s. Each call is broadcast as a command. Every rank runs the commands
that concern it in the same order, since ranks that order their collectives differently hang. Results stay on the rank
that computed them, under a number, until rank 0 awaits or forgets them.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import torch.distributed
from lightning_fabric import Fabric

from sheeprl.actors.handle import AllRanks, LocalHandle, LocalRef, Ref, method_name

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Stored:
    """A result in the ranks' memory, named in a command."""

    number: int


@dataclass(frozen=True)
class Command:
    """A command for one rank or for all ranks.

    Args:
        kind: `call`, `pair` (a call that returns a pair), `make`, `close`, `fetch` or `end`.
        rank: rank that runs the command; None for all ranks.
        name: name of the object.
        method: name of the object's method.
        args: arguments of the method, with results replaced by `Stored`.
        result: number of the result; the second half of a pair has the next number.
        forget: numbers of unused results to delete.
    """

    kind: str
    rank: int | None = None
    name: str = ""
    method: str = ""
    args: tuple[Any, ...] = ()
    result: int = 0
    forget: tuple[int, ...] = ()


class RankRef(Generic[T]):
    """A result on one rank, or on all ranks."""

    def __init__(self, link: RankDispatcher, number: int, rank: int | None) -> None:
        """Store the number of the call and the rank; None is all ranks."""
        self.link, self.number, self.rank = link, number, rank

    def __await__(self) -> Generator[Any, None, T]:
        """Fetch the result."""
        yield from LocalRef[None]().__await__()
        return self.link.fetch(self)

    def __del__(self) -> None:
        """Mark the result as unused, so that the ranks can delete it."""
        self.link.forgotten.append(self.number)


class RankDispatcher:
    """Sends commands from rank 0 and runs them on every rank.

    Args:
        fabric: launched Fabric.
        objects: this rank's objects, by name.
        makers: constructors for `make` commands, by kind of object.
    """

    def __init__(self, fabric: Fabric, objects: dict[str, Any], makers: dict[str, Callable[..., Any]]) -> None:
        """Make a handle for each object."""
        self.rank, self.world = fabric.global_rank, fabric.world_size
        self.handles = {name: LocalHandle(target) for name, target in objects.items()}
        self.makers = makers
        self.results: dict[int, LocalRef[Any]] = {}
        self.forgotten: list[int] = []
        self._next = 0
        # A separate process group: the other ranks may wait for a command longer than for a collective.
        self._group = torch.distributed.new_group(backend="gloo")

    # ------------------------------------------------------------------------------------ rank 0

    def call(
        self, kind: str, name: str, method: str, args: Sequence[Any], rank: int | None
    ) -> tuple[RankRef[Any], RankRef[Any]]:
        """Call a method, on the rank that holds its arguments if one rank holds them."""
        args = [arg.ref if isinstance(arg, AllRanks) else arg for arg in args]
        for arg in args:
            if isinstance(arg, RankRef) and arg.rank is not None:
                rank = arg.rank
        number = self._next
        self._next += 2
        plain = tuple(Stored(arg.number) if isinstance(arg, RankRef) else arg for arg in args)
        self._command(Command(kind, rank, name, method, plain, number))
        return RankRef(self, number, rank), RankRef(self, number + 1, rank)

    def make(self, kind: str, name: str, rank: int, args: tuple[Any, ...]) -> None:
        """Make an object on a rank.

        Raises:
            Exception: raised by the constructor.
        """
        self._command(Command("make", rank, name, kind, args)).get()

    def close(self, name: str, rank: int | None) -> None:
        """Close an object."""
        self._command(Command("close", rank, name))

    def fetch(self, ref: RankRef[T]) -> T:
        """Return the value of a result, rank 0's if all ranks have one. Raise the failure of any rank."""
        if ref.rank in (None, 0):
            value: T = self.results[ref.number].get()
        else:
            value = self._command(Command("fetch", ref.rank, args=(Stored(ref.number),))).get()
        return value

    def end(self) -> None:
        """End the other ranks' `serve`."""
        with suppress(RuntimeError):  # the connection is broken: another rank has died
            self._command(Command("end"))
        leave()

    def _command(self, command: Command) -> LocalRef[Any]:
        """Broadcast a command and run it here, too."""
        forget, self.forgotten = tuple(self.forgotten), []
        command = Command(**{**vars(command), "forget": forget})
        torch.distributed.broadcast_object_list([command], src=0, group=self._group)
        return self._carry_out(command)

    # --------------------------------------------------------------------------------- all ranks

    def serve(self) -> None:
        """Run commands until rank 0 sends `end`."""
        while True:
            box: list[Any] = [None]
            torch.distributed.broadcast_object_list(box, src=0, group=self._group)
            if box[0].kind == "end":
                return leave()
            self._carry_out(box[0])

    def _carry_out(self, command: Command) -> LocalRef[Any]:
        """Run a command if it concerns this rank, then exchange the outcome with the other ranks."""
        for number in command.forget:
            self.results.pop(number, None)
        if command.kind == "end":
            return LocalRef()
        answer = LocalRef[Any]()
        if command.rank in (None, self.rank):
            answer = self._do(command)
        return self._agree(command, answer)

    def _do(self, command: Command) -> LocalRef[Any]:
        """Run a command; return its exception as an outcome."""
        try:
            return self._done(command)
        except Exception as error:  # the other ranks must receive it
            return LocalRef(error=error)

    def _done(self, command: Command) -> LocalRef[Any]:
        """Run a command; return the value of a fetch, else an empty outcome or an error."""
        args = [self.results[arg.number] if isinstance(arg, Stored) else arg for arg in command.args]
        if command.kind == "call":
            handle = self.handles[command.name]
            self.results[command.result] = handle.call(getattr(type(handle.target), command.method), *args)
            return LocalRef(error=self.results[command.result].error)
        if command.kind == "pair":
            handle = self.handles[command.name]
            first, second = handle.call_pair(getattr(type(handle.target), command.method), *args)
            self.results[command.result], self.results[command.result + 1] = first, second
            return LocalRef(error=first.error)
        if command.kind == "fetch":
            return args[0]
        if command.kind == "make":
            self.handles[command.name] = LocalHandle(self.makers[command.method](*args))
        else:
            self.handles.pop(command.name).close()
        return LocalRef()

    def _agree(self, command: Command, answer: LocalRef[Any]) -> LocalRef[Any]:
        """Exchange failures, and the value of a fetch, between all ranks."""
        answers: list[Any] = [None] * self.world
        value = answer.value if command.kind == "fetch" else None
        torch.distributed.all_gather_object(answers, LocalRef(value, answer.error), group=self._group)
        failed = next((other for other in answers if other.error is not None), None)
        if failed is not None:
            for number in (command.result, command.result + 1):
                if command.kind in ("call", "pair"):
                    self.results[number] = failed
            return failed  # type: ignore[no-any-return]
        return answers[command.rank or 0]  # type: ignore[no-any-return]


def leave() -> None:
    """Destroy the process group while the interpreter still runs.

    At interpreter exit a thread of the group can request the interpreter after its end, and the process aborts.
    """
    gc.collect()  # futures of collectives hold references to the group
    torch.distributed.destroy_process_group()


class RankHandle:
    """Calls an object on one rank, or the objects of that name on all ranks."""

    def __init__(self, link: RankDispatcher, name: str, rank: int | None = None) -> None:
        """Store the name of the object and the rank; None is all ranks."""
        self.link, self.name, self.rank = link, name, rank

    def call(self, method: Callable[Concatenate[Any, P], T], *args: P.args, **kwargs: P.kwargs) -> Ref[T]:
        """Call a method."""
        return self._call("call", method_name(method, kwargs), args)[0]

    def call_pair(
        self, method: Callable[Concatenate[Any, P], tuple[A, B]], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[Ref[A], Ref[B]]:
        """Call a method that returns a pair."""
        return self._call("pair", method_name(method, kwargs), args)

    def _call(self, kind: str, method: str, args: Sequence[Any]) -> tuple[Ref[Any], Ref[Any]]:
        """Dispatch a call; if the connection is broken, return references that raise."""
        try:
            return self.link.call(kind, self.name, method, args, self.rank)
        except RuntimeError as error:  # the connection is broken: another rank has died
            failed = LocalRef[Any](error=error)
            return failed, failed

    def close(self) -> None:
        """Close the object."""
        self.link.close(self.name, self.rank)
