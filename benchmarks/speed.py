"""Measure SheepRL, decoupled and coupled, and other libraries at the same work, in turn on one machine.

The loop's time excludes start-up: for SheepRL it is the `wall_time` of the end event, for other libraries the time of
their training loop. The process's time is the whole time of the command. Every program is measured with each number of
threads, and its best number counts; a number that is far slower is dropped from later rounds. A ratio is the median of
the rounds' ratios.

SheepRL's cache of compiled graphs is filled before; "first time" is with an empty one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.harness import record
from benchmarks.harness.bounds import Bound
from benchmarks.harness.programs import (
    BARE,
    PEERS,
    POLICIES,
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
FAR_BEHIND = 1.2  # multiple of the seconds with a program's best number of threads


@dataclass(frozen=True)
class Requirement:
    """Required speed of SheepRL relative to a peer, in the placement that is faster.

    Args:
        workload: name of the workload.
        kind: `loop`, `process`, or `first time`, a process with an empty cache of compiled graphs.
        peer: key of the other library.
        at_least: required ratio.
        target: value to aim for.
    """

    workload: str
    kind: str
    peer: str
    at_least: float
    target: float | None = None


REQUIREMENTS = (
    *(Requirement("ppo_cartpole", "loop", peer, 3.0, 5.0) for peer in ("sb3", "sheeprl_084")),
    *(Requirement("ppo_cartpole", "process", peer, 1.5, 2.5) for peer in ("sb3", "sheeprl_084")),
    *(Requirement("ppo_cartpole", "first time", peer, 1.0) for peer in ("sb3", "sheeprl_084")),
    *(Requirement("sac_halfcheetah", "loop", peer, 1.8, 2.6) for peer in ("sb3", "sheeprl_084")),
    Requirement("sac_halfcheetah", "loop", "rllib", 15.0),
    *(Requirement(name, "loop", "sb3", 2.0) for name in POLICIES),
    Requirement("dqn_cartpole", "loop", "sb3", 3.0),
    Requirement("impala_cartpole", "loop", "rllib", 4.0),
    Requirement("dreamer_v3_cartpole", "loop", "sheeprl_084", 2.0),
)


@dataclass
class Timings:
    """Runs of one program on one workload with one number of threads."""

    program: SheepRL | Peer
    threads: int
    runs: list[Timing] = field(default_factory=list)
    left_out: bool = False  # because another number of threads is far faster

    def of(self, kind: str) -> list[float]:
        """Return the seconds of the loop or the process, run by run."""
        return [run.process if kind == "process" else run.loop for run in self.runs]

    def median(self, kind: str) -> float:
        """Return the median of these seconds."""
        return statistics.median(self.of(kind))

    def as_json(self) -> Json:
        """Return every run and the medians."""
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
        """Return the run whose loop time is nearest to the median."""
        return min(self.runs, key=lambda run: abs(run.loop - self.median("loop")))


class Comparison:
    """One workload with all programs and several rounds.

    Args:
        workload: work of all programs.
        ours: SheepRL in its placements; the first one sets the number of gradient steps.
        peers: the other libraries.
        threads: numbers of threads to measure.
    """

    def __init__(
        self, workload: Workload, ours: Sequence[SheepRL], peers: Sequence[Peer], threads: Sequence[int]
    ) -> None:
        """Make the timings of every program and number of threads."""
        self.workload = workload
        self.peers = peers
        self.timings = [Timings(program, number) for program in (*ours, *peers) for number in threads]

    def warm_up(self) -> None:
        """Compile the graphs of every placement of SheepRL."""
        for timings in self.timings:
            if isinstance(timings.program, SheepRL):
                timings.program.warm_up(self.workload, timings.threads)

    def round(self) -> None:
        """Run every program once, and drop numbers of threads that are far slower from later rounds."""
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
            BenchmarkError: its number of gradient steps differs from that of the first program by more than the
                workload's tolerance.
        """
        program, steps = timings.program, self.workload.steps
        if isinstance(program, Peer):
            steps = self.workload.steps_of_peer(self.timings[0].runs[0])
        timing = program.run(self.workload, timings.threads, steps)
        updates = self.timings[0].runs[0].updates if self.timings[0].runs else timing.updates
        differs = abs(timing.updates - updates) > self.workload.tolerance * updates
        if differs and not (isinstance(program, Peer) and self.workload.name in program.limited_to):
            named = f"{self.workload.name}: {program.name}"
            raise BenchmarkError(f"{named} took {timing.updates} gradient steps, not {updates}")
        return timing

    def best(self, name: str, kind: str = "loop") -> Timings:
        """Return a program's timings with its best number of threads."""
        own = [timings for timings in self.timings if timings.program.name == name and not timings.left_out]
        return min(own, key=lambda timings: timings.median(kind))

    @property
    def names(self) -> list[str]:
        """Return the names of the programs, each once."""
        return list(dict.fromkeys(timings.program.name for timings in self.timings))

    def ratios(self, name: str, peer: Peer, kind: str) -> list[float] | None:
        """Return the speed of a program relative to a peer, round by round; None if it isn't comparable.

        A peer that ends after some updates has updates per second, but no process to compare.
        """
        own, other = self.best(name, kind), self.best(peer.name, kind)
        if kind == "loop":
            return [a.rate / b.rate for a, b in zip(own.runs, other.runs, strict=True)]
        if self.workload.name in peer.limited_to:
            return None
        return [b.process / a.process for a, b in zip(own.runs, other.runs, strict=True)]

    def bounds(self) -> Iterator[Bound]:
        """Yield the requirements of this workload with the measured values."""
        peers = {peer.key: peer for peer in self.peers}
        for requirement in REQUIREMENTS:
            if requirement.workload != self.workload.name or requirement.peer not in peers:
                continue
            peer, cold = peers[requirement.peer], requirement.kind == "first time"
            kind = "process" if cold else requirement.kind
            found: dict[str, list[float]] = {}
            for name, other, what in self.pairs():
                if (other, what, "first" in name) == (peer, kind, cold) and (ratios := self.ratios(name, peer, kind)):
                    found[name] = ratios
            if found:
                best = max(found, key=lambda name: statistics.median(found[name]))
                work, placement = self.workload.title.partition(",")[0], best.split()[1].rstrip(",")
                name = f"{work}, {requirement.kind}: times as fast as {peer.name} ({placement})"
                yield Bound.of(name, found[best], at_least=requirement.at_least, target=requirement.target)

    def as_json(self) -> Json:
        """Return all timings, and the ratio of each SheepRL placement to every peer."""
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
        """Yield the comparisons: a placement, a peer, and the loop or the process."""
        ours = dict.fromkeys(timings.program.name for timings in self.timings if isinstance(timings.program, SheepRL))
        for name in ours:
            for peer in self.peers:
                for kind in ("process",) if "first" in name else ("loop", "process"):
                    yield name, peer, kind


# ------------------------------------------------------------------------------------------- reporting


def print_table(comparison: Comparison) -> None:
    """Print each program's best timings, SheepRL's ratios to every peer, and the requirements."""
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


@dataclass(frozen=True)
class Benchmark:
    """Benchmark that compares programs: its name, its workloads and the libraries that can run them.

    Args:
        name: name of the module and of the result.
        description: first line of the help.
        workloads: workloads by name.
        peers: keys of the other libraries.
    """

    name: str
    description: str
    workloads: Mapping[str, Workload]
    peers: Sequence[str]


SPEED = Benchmark("speed", (__doc__ or "").splitlines()[0], WORKLOADS, list(PEERS))


def parse(args: Sequence[str] | None, benchmark: Benchmark) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks {benchmark.name}", description=benchmark.description)
    names = list(benchmark.workloads)
    parser.add_argument("--workloads", nargs="+", choices=names, default=names)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="policy steps, to shorten the work")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="numbers to try for every program")
    parser.add_argument("--modes", nargs="*", choices=MODES, default=list(MODES), help="SheepRL's placements")
    parser.add_argument("--warm", action="store_true", help="leave out the runs with no compiled graphs")
    parser.add_argument(
        "--peers", nargs="*", choices=benchmark.peers, default=benchmark.peers, help="the other libraries"
    )
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
        parser.error("shortened or changed work, or another device, needs another --out")
    return given


def compared(given: argparse.Namespace, cache: Path, benchmark: Benchmark) -> list[Comparison]:
    """Return the comparisons that the command line selects."""
    pythons = dict(word.split("=", 1) for word in given.peer_python)
    peers = [replace(PEERS[key], python=pythons.get(key) or python_of(key), device=given.device) for key in given.peers]
    extra = (f"trainer.accelerator={given.device}", *given.set)
    comparisons = []
    for workload in (benchmark.workloads[name] for name in given.workloads):
        ours = [SheepRL(mode, cache, extra) for mode in given.modes]
        kinds = {requirement.kind for requirement in REQUIREMENTS if requirement.workload == workload.name}
        if "first time" in kinds and not given.warm:
            ours += [SheepRL(mode, None, extra) for mode in given.modes]
        shortened = replace(workload, steps=given.steps or workload.steps)
        able = [peer for peer in peers if workload.peers is None or peer.key in workload.peers]
        comparisons.append(Comparison(shortened, ours, able, given.threads))
    return comparisons


def measure(comparisons: Sequence[Comparison], rounds: int) -> Iterator[int]:
    """Warm up, then run all programs in turn; yield the number of rounds after each."""
    for comparison in comparisons:
        print(f"warming up, {comparison.workload.title}", flush=True)
        comparison.warm_up()
    for number in range(rounds):
        for comparison in comparisons:
            print(f"round {number + 1} of {rounds}, {comparison.workload.title}", flush=True)
            comparison.round()
        yield number + 1


def compare(benchmark: Benchmark, args: Sequence[str] | None) -> None:
    """Run the programs of a benchmark in turn, write the result and print it."""
    given = parse(args, benchmark)
    described = record.describe("configs", "benchmarks/peers") | {"load_before": load(), "device": given.device}
    path = given.out / f"{benchmark.name}.json"
    with temporary_cache() as cache:
        try:
            comparisons = compared(given, cache, benchmark)
            for rounds in measure(comparisons, given.rounds):  # an interrupted benchmark leaves the rounds before
                found = [bound.as_json() for comparison in comparisons for bound in comparison.bounds()]
                workloads = [comparison.as_json() for comparison in comparisons]
                record.write(path, described | {"rounds": rounds, "bounds": found, "workloads": workloads})
        except (BenchmarkError, RuntimeError) as error:
            sys.exit(f"error: {error}")
    for comparison in comparisons:
        print_table(comparison)
    print(f"\n{path}")


def main(args: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    compare(SPEED, args)


if __name__ == "__main__":
    main()
