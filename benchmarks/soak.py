"""Run SAC for a long time and measure the memory growth of its processes.

`python -m benchmarks soak --minutes 30`

Once the replay has been full for a while, memory must stay constant. A line is fitted to the resident memory of each
role's processes, without pages of files, and to the shared memory of the object store. Its slope is the growth per
hour.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.harness import record
from benchmarks.harness.processes import Member, memory_of
from benchmarks.harness.record import Json
from benchmarks.harness.subject import Subject

LOOK = 5.0  # seconds between two measurements
SETTLED = 0.25  # fraction of the time after which memory must be constant
MOST = 64 * 2**20  # bytes an hour of tolerated growth: noise of allocators, and tables of the run's metrics

WORDS = (
    "configs/sac.yaml",
    *("env.id=Pendulum-v1", "env.num_envs=4", "players.num=2", "trainer.threads=1", "trainer.accelerator=cpu"),
    *("algo.hidden_sizes=[64,64]", "algo.batch_size=64", "algo.replay_ratio=0.25", "buffer.size=50000"),
    *("run.total_steps=1000000000", "checkpoint.every=200000", "log.every=20000", "eval.episodes=0"),
)


class Soak:
    """Memory of a run over time.

    Args:
        subject: the run.
    """

    def __init__(self, subject: Subject) -> None:
        """Start without measurements."""
        self.subject = subject
        self.seen: dict[str, list[tuple[float, float]]] = defaultdict(list)  # (seconds, bytes) by role

    def watch(self, minutes: float) -> None:
        """Measure the run for some minutes.

        Raises:
            RuntimeError: it ended.
        """
        began = time.monotonic()
        while (now := time.monotonic() - began) < 60 * minutes:
            self._measure(now)
            if (code := self.subject.wait(LOOK)) is not None:
                raise RuntimeError(f"exit code {code}\n{self.subject.last_words()}")

    def _measure(self, now: float) -> None:
        """Measure the memory of all roles and of the object store."""
        members = self.subject.members()
        for name, own in _by_role(members).items():
            held = [memory_of(member.process) for member in own]
            self.seen[name].append((now, sum(each.resident - each.mapped for each in held if each is not None)))
        self.seen["object store"].append((now, store_bytes(members)))

    def slopes(self) -> Json:
        """Return the final bytes and their growth per hour, by role."""
        found: Json = {}
        for name, points in self.seen.items():
            seconds, held = np.array(points).T
            late = seconds >= SETTLED * seconds[-1]
            slope, _ = np.polyfit(seconds[late], held[late], 1)
            found[name] = {"bytes": int(held[-1]), "bytes_per_hour": round(slope * 3600), "looks": int(late.sum())}
        return found


def _by_role(members: Sequence[Member]) -> dict[str, list[Member]]:
    """Return the processes of each role."""
    named: dict[str, list[Member]] = defaultdict(list)
    for member in members:
        if member.role in ("driver", "player", "shard", "trainer", "raylet", "gcs_server"):
            named[member.role].append(member)
    return named


def store_bytes(members: Sequence[Member]) -> int:
    """Return the shared memory that the object store has used, from the file that the run's raylet maps."""
    for member in members:
        if member.role != "raylet":
            continue
        for line in _store_files(member.process.pid):
            with_size = os.stat(line)
            return with_size.st_blocks * 512
    return 0


def _store_files(pid: int) -> list[str]:
    """Return the object store's files that a process has open; these files are unlinked."""
    folder = Path(f"/proc/{pid}/fd")
    try:
        return [str(each) for each in folder.iterdir() if "plasma" in os.readlink(each)]
    except OSError:
        return []


def main(args: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the result")
    given = parser.parse_args(args)
    described = record.describe("configs")
    with tempfile.TemporaryDirectory(prefix="sheeprl_soak_") as folder:
        subject = Subject(Path(folder) / "run", WORDS)
        soak = Soak(subject)
        try:
            soak.watch(given.minutes)
        finally:
            subject.end()
        steps = subject.newest("Buffer/size"), max(line.values.get("step", 0) for line in subject.lines)
    slopes = soak.slopes()
    print(f"{steps[1]:,} policy steps in {given.minutes:g} minutes, {steps[0]:,.0f} rows in the replay")
    for name, row in slopes.items():
        growth = row["bytes_per_hour"] / 2**20
        print(f"  {name:<13} {row['bytes'] / 2**20:8.1f} MiB, {growth:+8.1f} MiB an hour")
    growing = [name for name, row in slopes.items() if row["bytes_per_hour"] > MOST]
    print(f"growing: {', '.join(growing) or 'nothing'}")
    path = given.out / "soak.json"
    record.write(path, described | {"minutes": given.minutes, "policy_steps": steps[1], "memory": slopes})
    print(path)
    sys.exit(bool(growing))


if __name__ == "__main__":
    main()
