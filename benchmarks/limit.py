"""Measure SAC's updates relative to their matrix products, and the trainer's idle time while collection is ahead.

The products are those of one update's networks, in float32 and with the same number of threads, measured on the same
machine. Both take turns, so changes of the machine's speed affect both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.harness import record
from benchmarks.harness.bounds import Bound, rounded
from benchmarks.harness.programs import WORKLOADS, BenchmarkError, SheepRL, Timing, load, temporary_cache, timed
from benchmarks.harness.record import Json

WORKLOAD = WORKLOADS["sac_halfcheetah"]
MODES = ("decoupled", "coupled")
AT_LEAST, TARGET = 0.5, 0.7  # of the products' rate
IDLE_AT_MOST = 0.03  # of the trainer's time while the replay is ahead


@dataclass
class Attempt:
    """One placement with one number of threads, and the products with as many.

    Args:
        program: SheepRL in this placement.
        threads: number of threads of both.
        runs: timings, round by round.
        products: seconds of one update's products, round by round.
    """

    program: SheepRL
    threads: int
    runs: list[Timing] = field(default_factory=list)
    products: list[float] = field(default_factory=list)

    def round(self, steps: int) -> None:
        """Run once, with the products before and after; the faster products count, because they were undisturbed."""
        before = self.time_products()
        self.runs.append(self.program.run(WORKLOAD, self.threads, steps))
        self.products.append(min(before, self.time_products()))
        print(
            f"  {self.program.name:<18} {self.threads} threads: {self.runs[-1].rate:6.1f} updates/s, "
            f"{1 / self.products[-1]:6.1f} by products alone",
            flush=True,
        )

    def time_products(self) -> float:
        """Return the seconds of one update's products, measured in a separate process."""
        command = [sys.executable, "-m", "benchmarks.harness.products", "--threads", str(self.threads)]
        _, printed = timed(command, record.environment(self.threads), record.ROOT)
        return float(json.loads(printed)["seconds"])

    @property
    def parts(self) -> list[float]:
        """Return updates per second of the loop relative to those of products alone, round by round."""
        return [run.rate * seconds for run, seconds in zip(self.runs, self.products, strict=True)]

    @property
    def updating_parts(self) -> list[float]:
        """Return the same relative to the time spent on updating, round by round."""
        rates = (run.updates / max(run.where["updating"], 1e-9) for run in self.runs)
        return [rate * seconds for rate, seconds in zip(rates, self.products, strict=True)]

    @property
    def idle(self) -> list[float]:
        """Return the fraction of time that the trainer waited while collection was ahead, round by round."""
        return [run.idle_while_ahead for run in self.runs if run.idle_while_ahead is not None]

    def as_json(self) -> Json:
        """Return all measurements."""
        return {
            "program": self.program.name,
            "threads": self.threads,
            "updates_per_second": [round(run.rate, 2) for run in self.runs],
            "products_per_second": [round(1 / seconds, 2) for seconds in self.products],
            "part_of_products": [rounded(part) for part in self.parts],
            "part_of_products_while_updating": [rounded(part) for part in self.updating_parts],
            "idle_while_ahead": [rounded(part) for part in self.idle],
            "where": {part: round(seconds, 3) for part, seconds in self.runs[-1].where.items()},
        }


def bounds(attempts: Sequence[Attempt]) -> list[Bound]:
    """Return the bounds with the values of the best attempt."""
    best = max(attempts, key=lambda attempt: statistics.median(attempt.parts))
    named = f"{best.program.mode}, {best.threads} threads"
    found = [
        Bound.of(
            f"updates/s over those of matrix products alone ({named})", best.parts, at_least=AT_LEAST, target=TARGET
        ),
        Bound.of(f"the same while updating ({named})", best.updating_parts),
    ]
    if ahead := [attempt for attempt in attempts if attempt.idle and attempt.program.mode == "decoupled"]:
        fastest = max(ahead, key=lambda attempt: statistics.median(attempt.parts))
        name = f"part of the time that the trainer waits while the replay is ahead ({fastest.threads} threads)"
        found.append(Bound.of(name, fastest.idle, at_most=IDLE_AT_MOST))
    return found


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks limit", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="policy steps, to shorten the work")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="numbers to try")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="SheepRL's placements")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="further settings of SheepRL's runs")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the result")
    given = parser.parse_args(args)
    if (given.steps or given.set) and given.out.resolve() == record.RESULTS:
        parser.error("shortened or changed work is a trial; use another --out")
    return given


def main(args: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    given = parse(args)
    described = record.describe(WORKLOAD.config) | {"rounds": given.rounds, "load_before": load()}
    workload = replace(WORKLOAD, steps=given.steps or WORKLOAD.steps)
    with temporary_cache() as cache:
        programs = [SheepRL(mode, cache, tuple(given.set)) for mode in given.modes]
        attempts = [Attempt(program, threads) for program in programs for threads in given.threads]
        try:
            for attempt in attempts:
                attempt.program.warm_up(workload, attempt.threads)
            for number in range(given.rounds):
                print(f"round {number + 1} of {given.rounds}, {workload.title}", flush=True)
                for attempt in attempts:
                    attempt.round(workload.steps)
        except BenchmarkError as error:
            sys.exit(f"error: {error}")
    found = bounds(attempts)
    print(f"\n{workload.title}", *(f"  {bound}" for bound in found), sep="\n")
    described |= {"title": workload.title, "bounds": [bound.as_json() for bound in found]}
    path = given.out / "limit.json"
    record.write(path, described | {"attempts": [attempt.as_json() for attempt in attempts]})
    print(f"\n{path}")


if __name__ == "__main__":
    main()
