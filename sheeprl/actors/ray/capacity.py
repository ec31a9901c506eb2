"""Compare the shapes of a run's actors with what single nodes hold; sums would hide a shape that fits no node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Resources = Mapping[str, float]
Labels = Mapping[str, str]


@dataclass(frozen=True)
class Node:
    """A node of the cluster.

    Args:
        free: free resources.
        total: all resources.
        labels: labels that Ray knows.
    """

    free: Resources
    total: Resources
    labels: Labels = field(default_factory=dict)


@dataclass(frozen=True)
class Shape:
    """Resources of one kind of actor.

    Args:
        name: singular name, for messages.
        each: resources of one actor.
        number: number of actors.
        settings: settings that determine the shape, for messages.
        spread: True if each actor needs a separate node.
        selectors: label selectors, of which a node must satisfy one; empty for all nodes.
    """

    name: str
    each: Resources
    number: int
    settings: str
    spread: bool = False
    selectors: Sequence[Labels] = ()

    def __str__(self) -> str:
        """Return the resources of one actor."""
        return " and ".join(f"{amount:g} {name}s" for name, amount in self.each.items() if amount)

    def may_use(self, node: Node) -> bool:
        """Return True if a node has the labels."""
        return not self.selectors or any(matches(node.labels, selector) for selector in self.selectors)


def placeable(shapes: Sequence[Shape], nodes: Sequence[Node]) -> list[int]:
    """Return how many actors of each shape find room, placed in order on the first node with room."""
    free = [dict(node.free) for node in nodes]
    placed = []
    for shape in shapes:
        usable = [number for number, node in enumerate(nodes) if shape.may_use(node)]
        count = 0
        while count < shape.number:
            place = next((number for number in usable if _fits(shape.each, free[number])), None)
            if place is None:
                break
            for name, amount in shape.each.items():
                free[place][name] = free[place].get(name, 0) - amount
            if shape.spread:
                usable.remove(place)
            count += 1
        placed.append(count)
    return placed


def describe_shortage(shapes: Sequence[Shape], nodes: Sequence[Node]) -> str | None:
    """Return which actors find no room on any node and why; None if all of them do.

    Args:
        shapes: the run's actors, in the order of their placement.
        nodes: the nodes of the cluster.
    """
    parts = []
    for shape, count in zip(shapes, placeable(shapes, nodes), strict=True):
        usable = [node.total for node in nodes if shape.may_use(node)]
        if count == shape.number:
            continue
        if not usable:
            parts.append(f"no node has the labels of a {shape.name} ({shape.settings})")
        elif not any(_fits(shape.each, total) for total in usable):
            largest = ", ".join(f"{max(total.get(name, 0) for total in usable):g} {name}s" for name in shape.each)
            parts.append(f"no node can hold a {shape.name} of {shape} ({shape.settings}): the largest has {largest}")
        else:
            parts.append(f"there is room for {count} of {shape.number} {shape.name}s of {shape} ({shape.settings})")
    return "; ".join(parts) or None


def _fits(each: Resources, node: Resources) -> bool:
    """Return True if a node has the resources of an actor."""
    return all(node.get(name, 0) >= amount for name, amount in each.items())


def matches(labels: Labels, selector: Labels) -> bool:
    """Return True if a node's labels satisfy a selector: `value`, `!value`, `in(a,b)` or `!in(a,b)` for each key."""
    for key, wanted in selector.items():
        negated = wanted.startswith("!")
        text = wanted.removeprefix("!")
        values = text[3:-1].split(",") if text.startswith("in(") and text.endswith(")") else [text]
        if (labels.get(key) in [value.strip() for value in values]) == negated:
            return False
    return True
