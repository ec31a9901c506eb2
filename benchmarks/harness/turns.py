"""Measure programs in turn, so that other load on the machine affects all of them alike."""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.harness import record
from benchmarks.harness.bounds import Bound, rounded
from benchmarks.harness.record import Json

Rounds = dict[str, list[float]]


def in_turn(programs: Mapping[str, Callable[[], float]], rounds: int, warm_up: bool = True) -> Rounds:
    """Measure each program once a round. With `warm_up`, the first round isn't counted."""
    measured: Rounds = {name: [] for name in programs}
    for number in range(rounds + warm_up):
        for name, program in programs.items():
            value = program()
            if number or not warm_up:
                measured[name].append(value)
    return measured


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Return the ratio of each round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def print_rounds(title: str, measured: Rounds, bounds: Sequence[Bound] = ()) -> None:
    """Print medians with minimum and maximum, and the bounds."""
    print(f"\n{title}")
    width = max(map(len, measured))
    for name, values in measured.items():
        print(f"  {name:<{width}} {statistics.median(values):10.4g} [{min(values):.4g}, {max(values):.4g}]")
    for bound in bounds:
        print(f"  {bound}")


def as_json(case: str, title: str, measured: Rounds, bounds: Sequence[Bound] = ()) -> Json:
    """Return all measurements as the results store them."""
    return {
        "case": case,
        "title": title,
        "bounds": [bound.as_json() for bound in bounds],
        "median": {name: rounded(statistics.median(values)) for name, values in measured.items()},
        "rounds": {name: [rounded(value) for value in values] for name, values in measured.items()},
    }


def measure_cases(
    name: str, about: str, cases: Mapping[str, Callable[[int], Json]], rounds: int, args: Sequence[str] | None
) -> None:
    """Run the command of a benchmark that consists of cases.

    Args:
        name: name of the benchmark.
        about: its description, one line.
        cases: functions that measure a number of rounds, by name.
        rounds: default number of rounds.
        args: arguments of the command line.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks {name}", description=about)
    parser.add_argument("--only", nargs="+", choices=cases, default=list(cases), metavar="CASE", help=", ".join(cases))
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the result")
    given = parser.parse_args(args)
    path = given.out / f"{name}.json"
    described = record.describe("benchmarks")
    described |= {"rounds": given.rounds, "load_before": round(os.getloadavg()[0], 2)}
    measured: list[Json] = []
    for case in given.only:
        measured.append(cases[case](given.rounds))
        record.write(path, described | {"cases": measured})  # an error in a later case leaves the cases before
    print(f"\n{path}")
