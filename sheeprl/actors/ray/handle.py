"""Handles of Ray actors: how the run speaks to them."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from sheeprl.actors.handle import AllRanks, DataLostError, LostError, Ref

NOTICE = 10.0  # seconds that may pass between a rank's death and Ray's word of it


class RayRef:
    """The result of an actor's call; what a method raised is raised as it was, not as Ray wraps it."""

    def __init__(self, ref: ray.ObjectRef[Any]) -> None:
        self.ref = ref

    def __await__(self) -> Generator[Any, None, Any]:
        return self._get().__await__()

    async def _get(self) -> Any:
        try:
            return await self.ref
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, ObjectLostError):  # of an argument, for which the actor waited in vain
                raise DataLostError(str(cause)) from error
            if isinstance(cause, RayTaskError):  # an argument is a result that failed
                cause = cause.cause
            raise cause from error  # which tells where, in the actor
        except ObjectLostError as error:
            raise DataLostError(str(error)) from error
        except RayActorError as error:
            raise LostError(str(error)) from error


class GroupRef:
    """The results of one call to every rank."""

    def __init__(self, refs: Sequence[RayRef]) -> None:
        self.refs = refs

    def __await__(self) -> Generator[Any, None, Any]:
        return self._get().__await__()

    async def _get(self) -> Any:
        """The first rank's result, once all ranks have theirs.

        Raises:
            LostError: a rank died. The others then fail at, or wait for ever in, what all of them do together.
        """
        answers = [asyncio.ensure_future(awaited(ref)) for ref in self.refs]
        try:
            done, waiting = await asyncio.wait(answers, return_when=asyncio.FIRST_EXCEPTION)
            if waiting or any(answer.exception() for answer in done):
                await self._look_for_losses(done, waiting)
            return answers[0].result()
        finally:
            for answer in answers:
                answer.cancel()

    async def _look_for_losses(self, done: set[asyncio.Task[Any]], waiting: set[asyncio.Task[Any]]) -> None:
        """Raise what explains the others' failures: that a rank is lost, if one is."""
        known = any(isinstance(answer.exception(), LostError) for answer in done)
        if waiting and not known:
            more, _ = await asyncio.wait(waiting, timeout=NOTICE)
            done = done | more
        errors = [error for answer in done if (error := answer.exception())]
        lost = next((error for error in errors if isinstance(error, LostError)), None)
        gone = [error for error in errors if isinstance(error, DataLostError)]
        if lost is None and 0 < len(gone) < len(self.refs):  # some went on without those that got nothing to go on with
            lost = LostError(f"the ranks are out of step: {gone[0]}")
        raise lost or errors[0]


async def awaited(ref: Ref) -> Any:
    """What a reference stands for, as a coroutine."""
    return await ref


def _plain(args: Sequence[Any]) -> list[Any]:
    """Arguments as Ray takes them."""
    plain: list[Any] = []
    for arg in args:
        if isinstance(arg, AllRanks):
            plain += [ref.ref for ref in arg.ref.refs]
        elif isinstance(arg, GroupRef):
            plain.append(arg.refs[0].ref)
        else:
            plain.append(arg.ref if isinstance(arg, RayRef) else arg)
    return plain


class RayHandle:
    """Calls an actor, whose methods run in the order of the calls."""

    def __init__(self, actor: ActorHandle[Any]) -> None:
        self.actor = actor

    def call(self, method: str, *args: Any) -> RayRef:
        """Start a method."""
        return RayRef(getattr(self.actor, method).remote(*_plain(args)))

    def call_pair(self, method: str, *args: Any) -> tuple[RayRef, RayRef]:
        """Start a method that returns a pair, each half of which becomes an object of its own."""
        first, second = getattr(self.actor, method).options(num_returns=2).remote(*_plain(args))
        return RayRef(first), RayRef(second)

    def close(self) -> None:
        """End the actor."""
        ray.kill(self.actor)


class GroupHandle:
    """Calls every rank of the trainer group."""

    def __init__(self, ranks: Sequence[RayHandle]) -> None:
        self.ranks = ranks

    def call(self, method: str, *args: Any) -> GroupRef:
        """Start a method on all ranks."""
        return GroupRef([rank.call(method, *args) for rank in self.ranks])

    def call_pair(self, method: str, *args: Any) -> tuple[GroupRef, Ref]:
        """Start a method on all ranks that returns a pair."""
        pairs = [rank.call_pair(method, *args) for rank in self.ranks]
        return GroupRef([first for first, _ in pairs]), GroupRef([second for _, second in pairs])

    def close(self) -> None:
        """End all ranks."""
        for rank in self.ranks:
            rank.close()
