"""Times SheepRL, decoupled and coupled, beside other libraries at the same work, in turn on one machine.

The loop's time leaves out start-up (for SheepRL the `wall_time` of the end event, for the others what lies around
their training loop), the process's time is all of it, from the command to the prompt. Every program is timed with each
number of threads asked for, and its best counts; a number that is far behind in a round is left out of those after
it. A ratio is the median of the rounds' ratios.

SheepRL's compiled graphs are kept in a folder that is warmed up before; "first time" is with an empty one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.harness import record
from benchmarks.harness.bounds import Bound
from benchmarks.harness.programs import (
    BARE,
    PEERS,
    WORKLOADS,
    BenchmarkError,
    Peer,
    SheepRL,
    Timing,
    Workload,
    load,
    temporary_cache,
)
from benchmarks.harness.record import Json
from benchmarks.peers.environments import python_of

MODES = ("decoupled", "coupled")
FAR_BEHIND = 1.2  # times the seconds of a program's best number of threads


@dataclass(frozen=True)
class Promise:
    """How many times as fast as a peer SheepRL is to be, in the placement that suits it better.

    Args:
        workload: at which work.
        kind: `loop`, `process`, or `first time`: a process with no compiled graphs there.
        peer: beside whom.
        at_least: the bound.
        hope: what would be better still.
    """

    workload: str
    kind: str
    peer: str
    at_least: float
    hope: float | None = None


PROMISES = (
    *(Promise("ppo_cartpole", "loop", peer, 3.0, 5.0) for peer in ("sb3", "sheeprl_084")),
    *(Promise("ppo_cartpole", "process", peer, 1.5, 2.5) for peer in ("sb3", "sheeprl_084")),
    *(Promise("ppo_cartpole", "first time", peer, 1.0) for peer in ("sb3", "sheeprl_084")),
    *(Promise("sac_halfcheetah", "loop", peer, 1.8, 2.6) for peer in ("sb3", "sheeprl_084")),
    Promise("sac_halfcheetah", "loop", "rllib", 15.0),
)


@dataclass
class Timings:
    """All runs of one program at one workload with one number of threads."""

    program: SheepRL | Peer
    threads: int
    runs: list[Timing] = field(default_factory=list)
    left_out: bool = False  # because another number of threads suits the program far better

    def of(self, kind: str) -> list[float]:
        """Seconds of the loop or the process, run by run."""
        return [run.process if kind == "process" else run.loop for run in self.runs]

    def median(self, kind: str) -> float:
        """The middle one of them."""
        return statistics.median(self.of(kind))

    def as_json(self) -> Json:
        """Every run, and their median."""
        result: Json = {"program": self.program.name, "threads": self.threads}
        for kind in ("loop", "process"):
            result |= {kind: [round(seconds, 3) for seconds in self.of(kind)]}
            result |= {f"{kind}_median": round(self.median(kind), 3)}
        last = self.runs[-1]
        result |= {"updates": last.updates, "policy_steps": last.policy_steps}
        result |= {"updates_per_second": round(statistics.median(run.rate for run in self.runs), 2)}
        result |= {"versions": last.versions} if last.versions else {}
        result |= {"where": {part: round(seconds, 3) for part, seconds in self.typical.where.items()}}
        return result | ({"left_out": True} if self.left_out else {})

    @property
    def typical(self) -> Timing:
        """The run whose loop is nearest the median."""
        return min(self.runs, key=lambda run: abs(run.loop - self.median("loop")))


class Comparison:
    """One workload, all programs, several rounds.

    Args:
        workload: what is done.
        ours: SheepRL in its placements, the first of them first.
        peers: the other libraries.
        threads: numbers to try.
    """

    def __init__(
        self, workload: Workload, ours: Sequence[SheepRL], peers: Sequence[Peer], threads: Sequence[int]
    ) -> None:
        self.workload = workload
        self.peers = peers
        self.timings = [Timings(program, number) for program in (*ours, *peers) for number in threads]

    def warm_up(self) -> None:
        """Have every placement of SheepRL compile what it needs."""
        for timings in self.timings:
            if isinstance(timings.program, SheepRL):
                timings.program.warm_up(self.workload, timings.threads)

    def round(self) -> None:
        """Run every program once, and leave numbers of threads that don't suit out of the rounds to come."""
        for timings in self.timings:
            if timings.left_out:
                continue
            timings.runs.append(self.run(timings))
            last = timings.runs[-1]
            print(
                f"  {timings.program.name:<29} {timings.threads} threads: loop {last.loop:7.2f} s, process "
                f"{last.process:7.2f} s, {last.updates:,} updates, {last.policy_steps:,} policy steps",
                flush=True,
            )
        for timings in self.timings:
            timings.left_out |= timings.median("loop") > FAR_BEHIND * self.best(timings.program.name).median("loop")

    def run(self, timings: Timings) -> Timing:
        """Run one program once.

        Raises:
            BenchmarkError: it didn't take as many gradient steps as the first one did.
        """
        program, steps = timings.program, self.workload.steps
        if isinstance(program, Peer):
            steps = self.workload.steps_of_peer(self.timings[0].runs[0])
        timing = program.run(self.workload, timings.threads, steps)
        updates = self.timings[0].runs[0].updates if self.timings[0].runs else timing.updates
        if timing.updates != updates and not (isinstance(program, Peer) and self.workload.name in program.limited_to):
            named = f"{self.workload.name}: {program.name}"
            raise BenchmarkError(f"{named} took {timing.updates} gradient steps, not {updates}")
        return timing

    def best(self, name: str, kind: str = "loop") -> Timings:
        """A program's timings with the number of threads that suits it best."""
        own = [timings for timings in self.timings if timings.program.name == name and not timings.left_out]
        return min(own, key=lambda timings: timings.median(kind))

    @property
    def names(self) -> list[str]:
        """Of the programs, each once."""
        return list(dict.fromkeys(timings.program.name for timings in self.timings))

    def ratios(self, name: str, peer: Peer, kind: str) -> list[float] | None:
        """How many times as fast as a peer a program is, round by round; None where that can't be said.

        A peer that ends after some updates has updates per second, but no process to compare.
        """
        own, other = self.best(name, kind), self.best(peer.name, kind)
        if kind == "loop":
            return [a.rate / b.rate for a, b in zip(own.runs, other.runs, strict=True)]
        if self.workload.name in peer.limited_to:
            return None
        return [b.process / a.process for a, b in zip(own.runs, other.runs, strict=True)]

    def bounds(self) -> Iterator[Bound]:
        """What is promised of this workload, beside what was measured."""
        peers = {peer.key: peer for peer in self.peers}
        for promise in PROMISES:
            if promise.workload != self.workload.name or promise.peer not in peers:
                continue
            peer, cold = peers[promise.peer], promise.kind == "first time"
            kind = "process" if cold else promise.kind
            found: dict[str, list[float]] = {}
            for name, other, what in self.pairs():
                if (other, what, "first" in name) == (peer, kind, cold) and (ratios := self.ratios(name, peer, kind)):
                    found[name] = ratios
            if found:
                best = max(found, key=lambda name: statistics.median(found[name]))
                work, placement = self.workload.title.partition(",")[0], best.split()[1].rstrip(",")
                name = f"{work}, {promise.kind}: times as fast as {peer.name} ({placement})"
                yield Bound.of(name, found[best], at_least=promise.at_least, hope=promise.hope)

    def as_json(self) -> Json:
        """All timings, and each of SheepRL's placements beside every peer."""
        pairs = []
        for name, peer, kind in self.pairs():
            if ratios := self.ratios(name, peer, kind):
                spread = [round(min(ratios), 3), round(max(ratios), 3)]
                pair = {"program": name, "peer": peer.name, "kind": kind}
                pairs.append(pair | {"ratio": round(statistics.median(ratios), 3), "spread": spread})
        return {
            "workload": self.workload.name,
            "title": self.workload.title,
            "config": self.workload.config,
            "overrides": [*self.workload.overrides, *BARE],
            "total_steps": self.workload.steps,
            "best_threads": {name: self.best(name).threads for name in self.names},
            "ratios": pairs,
            "timings": [timings.as_json() for timings in self.timings],
        }

    def pairs(self) -> Iterator[tuple[str, Peer, str]]:
        """What is compared: a placement, a peer, and the loop or the process."""
        ours = dict.fromkeys(timings.program.name for timings in self.timings if isinstance(timings.program, SheepRL))
        for name in ours:
            for peer in self.peers:
                for kind in ("process",) if "first" in name else ("loop", "process"):
                    yield name, peer, kind


# ------------------------------------------------------------------------------------------- reporting


def print_table(comparison: Comparison) -> None:
    """Each program's best: medians and spread, SheepRL's ratios to every peer, and what was promised."""
    print(f"\n{comparison.workload.title}")
    print(f"{'program':<29} {'threads':>7}  {'loop: median [min, max] s':>28}  {'process':>28}  {'updates/s':>9}")
    for name in comparison.names:
        own = comparison.best(name)
        cells = (f"{own.median(k):8.2f} [{min(own.of(k)):.2f}, {max(own.of(k)):.2f}]" for k in ("loop", "process"))
        loop, process = cells
        rate = statistics.median(run.rate for run in own.runs)
        print(f"{name:<29} {own.threads:>7}  {loop:>28}  {process:>28}  {rate:9.1f}")
    for pair in comparison.as_json()["ratios"]:
        low, high = pair["spread"]
        ratio = f"{pair['ratio']:.2f} × [{low:.2f}, {high:.2f}]"
        print(f"  {pair['program']}, {pair['kind']}: {ratio} the speed of {pair['peer']}")
    for bound in comparison.bounds():
        print(f"  {bound}")


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks speed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="policy steps, to shorten the work")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="numbers to try for every program")
    parser.add_argument("--modes", nargs="*", choices=MODES, default=list(MODES), help="SheepRL's placements")
    parser.add_argument("--warm", action="store_true", help="leave out the runs with no compiled graphs")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="the other libraries")
    parser.add_argument(
        "--peer-python",
        nargs="+",
        default=[],
        metavar="PEER=PYTHON",
        help="an environment of your own that has a peer; by default one is made",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="that every program learns on")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="further settings of SheepRL's runs")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the result")
    given = parser.parse_args(args)
    if (given.steps or given.set or given.device != "cpu") and given.out.resolve() == record.RESULTS:
        parser.error("shortened or changed work, or another device, needs an --out of its own")
    return given


def compared(given: argparse.Namespace, cache: Path) -> list[Comparison]:
    """What the command line asks for."""
    pythons = dict(word.split("=", 1) for word in given.peer_python)
    peers = [replace(PEERS[key], python=pythons.get(key) or python_of(key), device=given.device) for key in given.peers]
    extra = (f"trainer.accelerator={given.device}", *given.set)
    comparisons = []
    for workload in (WORKLOADS[name] for name in given.workloads):
        ours = [SheepRL(mode, cache, extra) for mode in given.modes]
        promised = {promise.kind for promise in PROMISES if promise.workload == workload.name}
        if "first time" in promised and not given.warm:
            ours += [SheepRL(mode, None, extra) for mode in given.modes]
        shortened = replace(workload, steps=given.steps or workload.steps)
        comparisons.append(Comparison(shortened, ours, peers, given.threads))
    return comparisons


def measure(comparisons: Sequence[Comparison], rounds: int) -> Iterator[int]:
    """Warm up, then let all programs take turns; after each round, how many there were."""
    for comparison in comparisons:
        print(f"warming up, {comparison.workload.title}", flush=True)
        comparison.warm_up()
    for number in range(rounds):
        for comparison in comparisons:
            print(f"round {number + 1} of {rounds}, {comparison.workload.title}", flush=True)
            comparison.round()
        yield number + 1


def main(args: Sequence[str] | None = None) -> None:
    given = parse(args)
    described = record.describe("configs", "benchmarks/peers") | {"load_before": load(), "device": given.device}
    path = given.out / "speed.json"
    with temporary_cache() as cache:
        try:
            comparisons = compared(given, cache)
            for rounds in measure(comparisons, given.rounds):  # a benchmark that is cut off has measured something too
                found = [bound.as_json() for comparison in comparisons for bound in comparison.bounds()]
                workloads = [comparison.as_json() for comparison in comparisons]
                record.write(path, described | {"rounds": rounds, "bounds": found, "workloads": workloads})
        except (BenchmarkError, RuntimeError) as error:
            sys.exit(f"error: {error}")
    for comparison in comparisons:
        print_table(comparison)
    print(f"\n{path}")


if __name__ == "__main__":
    main()
