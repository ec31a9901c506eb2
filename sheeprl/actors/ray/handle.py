"""Handles of Ray actors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from sheeprl.actors.handle import AllRanks, DataLostError, LostError, awaited, method_name, own_ref
from sheeprl.actors.ray import internals

NOTICE = 10.0  # seconds that may pass between a rank's death and Ray's notice of it
P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")


class RayRef(Generic[T]):
    """The result of an actor's call. Exceptions of the method are raised without Ray's wrapper."""

    def __init__(self, ref: ray.ObjectRef[Any]) -> None:
        """Store Ray's reference."""
        self.ref = ref

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for the result."""
        return self._get().__await__()

    async def _get(self) -> T:
        """Return the result, with Ray's exceptions translated."""
        try:
            return cast(T, await self.ref)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, ObjectLostError):  # an argument of the call is lost
                raise DataLostError(str(cause)) from error
            if isinstance(cause, RayTaskError):  # an argument is the result of a failed call
                cause = cause.cause
            raise cause from error  # `error` holds the actor's traceback
        except ObjectLostError as error:
            raise DataLostError(str(error)) from error
        except RayActorError as error:
            raise LostError(str(error), with_node=internals.died_with_node(error)) from error


class GroupRef(Generic[T]):
    """The results of one call to every rank."""

    def __init__(self, refs: Sequence[RayRef[T]]) -> None:
        """Store the references, one per rank."""
        self.refs = refs

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for the result."""
        return self._get().__await__()

    async def _get(self) -> T:
        """Return the first rank's result once every rank has a result.

        Raises:
            LostError: a rank died. The other ranks then fail at, or wait forever in, a collective operation.
        """
        answers = [asyncio.ensure_future(awaited(ref)) for ref in self.refs]
        try:
            done, waiting = await asyncio.wait(answers, return_when=asyncio.FIRST_EXCEPTION)
            if waiting or any(answer.exception() for answer in done):
                await self._raise_cause(done, waiting)
            return answers[0].result()
        finally:
            for answer in answers:
                answer.cancel()

    async def _raise_cause(self, done: set[asyncio.Task[T]], waiting: set[asyncio.Task[T]]) -> None:
        """Raise the loss of a rank if there is one, since it explains the other ranks' failures."""
        known = any(isinstance(answer.exception(), LostError) for answer in done)
        if waiting and not known:
            more, _ = await asyncio.wait(waiting, timeout=NOTICE)
            done = done | more
        errors = [error for answer in done if (error := answer.exception())]
        lost = next((error for error in errors if isinstance(error, LostError)), None)
        without_data = [error for error in errors if isinstance(error, DataLostError)]
        if lost is None and 0 < len(without_data) < len(self.refs):  # some ranks had their arguments and went ahead
            lost = LostError(f"the ranks are out of step: {without_data[0]}")
        raise lost or errors[0]


def _to_ray(args: Sequence[Any]) -> list[Any]:
    """Return arguments with our references replaced by Ray's."""
    plain: list[Any] = []
    for arg in map(own_ref, args):
        if isinstance(arg, AllRanks):
            plain += [ref.ref for ref in cast(GroupRef[Any], arg.ref).refs]
        elif isinstance(arg, GroupRef):
            plain.append(arg.refs[0].ref)
        else:
            plain.append(arg.ref if isinstance(arg, RayRef) else arg)
    return plain


class RayHandle:
    """Calls an actor, which runs its methods in the order of the calls."""

    def __init__(self, actor: ActorHandle[Any]) -> None:
        """Store the actor."""
        self.actor = actor

    def call(self, method: Callable[Concatenate[Any, P], T], *args: P.args, **kwargs: P.kwargs) -> RayRef[T]:
        """Start a method."""
        return RayRef(getattr(self.actor, method_name(method, kwargs)).remote(*_to_ray(args)))

    def call_pair(
        self, method: Callable[Concatenate[Any, P], tuple[A, B]], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[RayRef[A], RayRef[B]]:
        """Start a method that returns a pair; each half becomes a separate object in Ray's store."""
        first, second = self.call_parts(method, 2, *args, **kwargs)
        return first, second

    def call_parts(
        self, method: Callable[Concatenate[Any, P], Sequence[Any]], count: int, *args: P.args, **kwargs: P.kwargs
    ) -> list[RayRef[Any]]:
        """Start a method that returns `count` values, two at least; each becomes a separate object in Ray's store."""
        remote = getattr(self.actor, method_name(method, kwargs)).options(num_returns=count).remote
        return [RayRef(part) for part in remote(*_to_ray(args))]

    def is_up(self) -> RayRef[Any]:
        """Return a reference whose result is available once the actor has started."""
        return RayRef(self.actor.__ray_ready__.remote())

    def close(self) -> None:
        """Kill the actor."""
        ray.kill(self.actor)


class GroupHandle:
    """Calls every rank of the trainer group."""

    def __init__(self, ranks: Sequence[RayHandle]) -> None:
        """Store the handles of the ranks."""
        self.ranks = ranks

    def call(self, method: Callable[Concatenate[Any, P], T], *args: P.args, **kwargs: P.kwargs) -> GroupRef[T]:
        """Start a method on all ranks."""
        return GroupRef([rank.call(method, *args, **kwargs) for rank in self.ranks])

    def call_pair(
        self, method: Callable[Concatenate[Any, P], tuple[A, B]], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[GroupRef[A], GroupRef[B]]:
        """Start a method that returns a pair on all ranks."""
        pairs = [rank.call_pair(method, *args, **kwargs) for rank in self.ranks]
        return GroupRef([first for first, _ in pairs]), GroupRef([second for _, second in pairs])

    def close(self) -> None:
        """Kill all ranks."""
        for rank in self.ranks:
            rank.close()
