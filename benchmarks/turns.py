"""Measures programs in turn, so that what else the machine does meets all of them alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from benchmarks.bounds import Bound, rounded
from benchmarks.record import Json

Rounds = dict[str, list[float]]


def in_turn(programs: Mapping[str, Callable[[], float]], rounds: int, warm_up: bool = True) -> Rounds:
    """What each program measured, round by round; after a round that doesn't count, unless programs start anew."""
    measured: Rounds = {name: [] for name in programs}
    for number in range(rounds + warm_up):
        for name, program in programs.items():
            value = program()
            if number or not warm_up:
                measured[name].append(value)
    return measured


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Of each round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def print_rounds(title: str, measured: Rounds, bounds: Sequence[Bound] = ()) -> None:
    """Medians with least and most, and what was promised."""
    print(f"\n{title}")
    width = max(map(len, measured))
    for name, values in measured.items():
        print(f"  {name:<{width}} {statistics.median(values):10.4g} [{min(values):.4g}, {max(values):.4g}]")
    for bound in bounds:
        print(f"  {bound}")


def as_json(case: str, title: str, measured: Rounds, bounds: Sequence[Bound] = ()) -> Json:
    """All that was measured."""
    return {
        "case": case,
        "title": title,
        "bounds": [bound.as_json() for bound in bounds],
        "median": {name: rounded(statistics.median(values)) for name, values in measured.items()},
        "rounds": {name: [rounded(value) for value in values] for name, values in measured.items()},
    }
