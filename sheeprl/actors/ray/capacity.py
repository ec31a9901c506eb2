"""Compare the shapes of a run's actors with what single nodes hold; sums would hide a shape that fits no node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Resources = Mapping[str, float]


@dataclass(frozen=True)
class Shape:
    """Resources of one kind of actor.

    Args:
        name: singular name, for messages.
        each: resources of one actor.
        number: number of actors.
        settings: settings that determine the shape, for messages.
        spread: True if each actor needs a node of its own.
    """

    name: str
    each: Resources
    number: int
    settings: str
    spread: bool = False

    def __str__(self) -> str:
        """Return the resources of one actor."""
        return " and ".join(f"{amount:g} {name}s" for name, amount in self.each.items() if amount)


def placeable(shapes: Sequence[Shape], nodes: Sequence[Resources]) -> list[int]:
    """Return how many actors of each shape find room, placed in order on the first node with room."""
    free = [dict(node) for node in nodes]
    placed = []
    for shape in shapes:
        count, used = 0, set[int]()
        for _ in range(shape.number):
            place = next((n for n, node in enumerate(free) if n not in used and _fits(shape.each, node)), None)
            if place is None:
                break
            for name, amount in shape.each.items():
                free[place][name] = free[place].get(name, 0) - amount
            used |= {place} if shape.spread else set()
            count += 1
        placed.append(count)
    return placed


def describe_shortage(shapes: Sequence[Shape], free: Sequence[Resources], total: Sequence[Resources]) -> str | None:
    """Return which actors find no room on any node and why; None if all of them do.

    Args:
        shapes: the run's actors, in the order of their placement.
        free: free resources of each node.
        total: all resources of each node.
    """
    parts = []
    for shape, count in zip(shapes, placeable(shapes, free), strict=True):
        if count == shape.number:
            continue
        if not any(_fits(shape.each, node) for node in total):
            largest = ", ".join(
                f"{max((node.get(name, 0) for node in total), default=0):g} {name}s" for name in shape.each
            )
            parts.append(f"no node can hold a {shape.name} of {shape} ({shape.settings}): the largest has {largest}")
        else:
            parts.append(f"there is room for {count} of {shape.number} {shape.name}s of {shape} ({shape.settings})")
    return "; ".join(parts) or None


def _fits(each: Resources, node: Resources) -> bool:
    """Return True if a node has the resources of an actor."""
    return all(node.get(name, 0) >= amount for name, amount in each.items())
