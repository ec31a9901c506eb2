"""Collect rounds of fragments from the players."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from dataclasses import dataclass

from sheeprl.actors.handle import Ref
from sheeprl.actors.messages import FragmentInfo


@dataclass(frozen=True)
class Published:
    """Weights that players may play with."""

    version: int
    weights: Ref
    policy_steps: int  # counted when these weights were made, which decides whether play is still random


@dataclass(frozen=True)
class Arrived:
    """A fragment on its way to the buffer."""

    info: FragmentInfo
    fragment: Ref
    incarnation: int


async def _in_order(awaitables: Iterable[Awaitable[Arrived]]) -> list[Arrived]:
    return [await awaitable for awaitable in awaitables]
