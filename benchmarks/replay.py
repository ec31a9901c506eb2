"""Measure the replay buffer, NumPy by hand, copies in memory, Ray's store and other libraries' buffers.

`python -m benchmarks replay --peers-python PATH` where PATH is the Python of an environment with these libraries;
`--only uniform add` runs some of the cases.

Every program is a separate process with one thread. It is prepared once; then the programs take turns. A ratio is the
median of the rounds' ratios. A program that can't run is reported as missing, with the reason.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.cases.replay_bounds import BOUNDS, OURS, Program, median
from benchmarks.harness import record
from benchmarks.harness.bounds import Bound
from benchmarks.harness.record import Json
from benchmarks.harness.worker import Worker, WorkerError, one_thread

MIB = 2**20
PEERS = {
    "cpprb": "cpprb",
    "torchrl": "TorchRL LazyTensorStorage",
    "torchrl_memmap": "TorchRL LazyMemmapStorage",
    "sb3": "Stable-Baselines3",
    "rllib": "RLlib EpisodeReplayBuffer",
}


@dataclass(frozen=True)
class Case:
    """One measurement of all programs.

    Args:
        title: title in the table.
        peers: other libraries to measure.
        prioritized: True if samples are drawn by priority.
        new_processes: start a new process for every round, because a process can be measured only once.
    """

    title: str
    peers: tuple[str, ...] = ()
    prioritized: bool = False
    new_processes: bool = False


CASES = {
    "uniform": Case("256 transitions (17 + 6 floats) out of 1M, seconds per batch", tuple(PEERS)),
    "prioritized": Case(
        "256 transitions by priority and the update of their priorities, seconds per batch",
        tuple(PEERS),
        prioritized=True,
    ),
    "sequences": Case("64 sequences of 64 images of 64 x 64 x 3 out of 100k, bytes per second"),
    "add": Case("adding a fragment of 64 x 4 rows after so many rows, seconds"),
    "actor": Case("chunks of 64 batches of 256 transitions through a Ray actor, bytes per second"),
    "memory": Case("resident memory of 1M transitions (17 + 6 floats), bytes", new_processes=True),
    "memory_prioritized": Case("the same with priorities, bytes", new_processes=True),
    "memmap": Case("memory-mapped, 4 times as large as the memory allowed, bytes per second"),
}


@dataclass(frozen=True)
class Settings:
    """Settings from the command line.

    Args:
        peers_python: Python of the environment with the other libraries.
        limit: bytes of memory, for the memory-mapped case.
        limit_with: words before a command that put it under that limit; none for `RLIMIT_DATA`.
        folder: folder of memory-mapped files.
    """

    peers_python: str
    limit: int
    limit_with: tuple[str, ...]
    folder: Path


# --------------------------------------------------------------------------------------------- running


@dataclass
class Comparison:
    """One case with all its programs.

    Args:
        name: name of the case.
        settings: settings from the command line.
    """

    name: str
    settings: Settings
    programs: list[Program] = field(default_factory=list)
    _workers: dict[str, Worker] = field(default_factory=dict)

    @property
    def case(self) -> Case:
        """Return the case."""
        return CASES[self.name]

    def run(self, rounds: int) -> None:
        """Prepare all programs and measure them in turn."""
        self.programs = [Program(OURS, self.our_command())]
        self.programs += [Program(PEERS[peer], self.peer_command(peer)) for peer in self.case.peers]
        try:
            for number in range(rounds):
                for program in self.programs:
                    self.measure(program)
                print(f"  {self.name}: round {number + 1} of {rounds}", flush=True)
        finally:
            for worker in self._workers.values():
                worker.close()

    def measure(self, program: Program) -> None:
        """Measure one round of a program; after an error it counts as missing."""
        if program.missing:
            return
        try:
            if program.name not in self._workers:
                worker = Worker(program.command, one_thread(record.environment()), record.ROOT)
                self._workers[program.name] = worker
                program.versions = worker.about
            program.rounds.append(self._workers[program.name].measure())
        except WorkerError as error:
            program.missing = str(error)
            self._workers.pop(program.name, None)
            print(f"  {self.name}: {program.name} is missing: {error}", flush=True)
        if self.case.new_processes and program.name in self._workers:
            self._workers.pop(program.name).close()

    def our_command(self) -> tuple[str, ...]:
        """Return the command of SheepRL's process."""
        command = (sys.executable, "-m", "benchmarks.cases.replay_cases", self.name)
        if self.name != "memmap":
            return command
        given = ("--limit", str(self.settings.limit), "--folder", str(self.settings.folder.resolve()))
        if self.settings.limit_with:
            return (*self.settings.limit_with, *command, *given)
        return (*command, *given, "--rlimit")

    def peer_command(self, peer: str) -> tuple[str, ...]:
        """Return the command of another library's process."""
        flags = ("--prioritized",) if self.case.prioritized else ()
        return (self.settings.peers_python, "-m", "benchmarks.peers.replay_buffers", peer, *flags)

    def bounds(self) -> list[Bound]:
        """Return the bounds of this case with the measured values."""
        if not self.programs[0].rounds:
            return []
        return BOUNDS[self.name]({program.name: program for program in self.programs if program.rounds})

    def as_json(self) -> Json:
        """Return all measurements."""
        result: Json = {"case": self.name, "title": self.case.title}
        if self.name == "memmap":
            result["limit"] = describe_limit(self.settings)
        return result | {
            "bounds": [bound.as_json() for bound in self.bounds()],
            "programs": [program.as_json() for program in self.programs],
        }


def describe_limit(settings: Settings) -> Json:
    """Return the memory limit, and True if a process that exceeds it is stopped."""
    take = f"held = bytearray({settings.limit}); held[::4096] = bytes([1]) * len(held[::4096])"
    set_limit = f"import resource; resource.setrlimit(resource.RLIMIT_DATA, ({settings.limit},) * 2); "
    words = (*settings.limit_with, sys.executable, "-c", take if settings.limit_with else set_limit + take)
    stopped = subprocess.run(words, cwd=record.ROOT, capture_output=True, check=False).returncode != 0
    kind = settings.limit_with[0] if settings.limit_with else "RLIMIT_DATA: private memory, not pages of mapped files"
    return {"bytes": settings.limit, "enforced_by": Path(kind).name, "stops_a_process_that_takes_more": stopped}


# ------------------------------------------------------------------------------------------- reporting


def print_table(comparison: Comparison) -> None:
    """Print medians and spread of every figure, and the bounds."""
    print(f"\n{comparison.name}: {comparison.case.title}")
    for program in comparison.programs:
        if program.missing:
            print(f"  {program.name:<26} missing: {program.missing}")
            continue
        for figure in program.rounds[0]:
            values = program.values(figure)
            spread = f"[{min(values):.4g}, {max(values):.4g}]"
            print(f"  {program.name:<26} {figure:<18} {median(values):10.4g} {spread}")
    for bound in comparison.bounds():
        print(f"  {bound}")


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks replay", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers-python", default=sys.executable, help="Python of an environment with the libraries")
    parser.add_argument("--limit-mib", type=int, default=1024, help="memory that the memory-mapped case may have")
    parser.add_argument(
        "--limit-with",
        default="",
        help="words put before a command to limit its memory, with {bytes} for the limit, such as "
        "'systemd-run --scope --quiet -p MemoryMax={bytes} -p MemorySwapMax=0'; without it, RLIMIT_DATA is set",
    )
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for memory-mapped files")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the result")
    return parser.parse_args(args)


def main(args: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    given = parse(args)
    limit = given.limit_mib * MIB
    words = tuple(word.format(bytes=limit) for word in given.limit_with.split())
    settings = Settings(given.peers_python, limit, words, given.folder)
    described = record.describe("benchmarks")
    described |= {"threads": 1, "rounds": given.rounds, "load_before": round(os.getloadavg()[0], 2)}
    comparisons = [Comparison(name, settings) for name in given.only]
    for comparison in comparisons:
        comparison.run(given.rounds)
    for comparison in comparisons:
        print_table(comparison)
    path = given.out / "replay.json"
    record.write(path, described | {"cases": [comparison.as_json() for comparison in comparisons]})
    print(f"\n{path}")


if __name__ == "__main__":
    main()
