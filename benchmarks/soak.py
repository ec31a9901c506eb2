"""Lets a run go at full rate for long, and looks at what its processes hold in memory meanwhile.

`python -m benchmarks soak --minutes 30`

Once the replay has been full for a while, everything that the run needs is there: from then on memory must stay as it
is. A line is fitted to what each role's processes hold in RAM, without pages of files, and to the shared memory that
the object store uses; the slope says what an hour more would take.
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

LOOK = 5.0  # seconds between two looks
SETTLED = 0.25  # of the time after which memory must not grow any more
MOST = 64 * 2**20  # bytes an hour that may be noise: of allocators, and of tables that grow with the run's metrics

WORDS = (
    "configs/sac.yaml",
    *("env.id=Pendulum-v1", "env.num_envs=4", "players.num=2", "trainer.threads=1", "trainer.accelerator=cpu"),
    *("algo.hidden_sizes=[64,64]", "algo.batch_size=64", "algo.replay_ratio=0.25", "buffer.size=50000"),
    *("run.total_steps=1000000000", "checkpoint.every=200000", "log.every=20000", "eval.episodes=0"),
)


class Soak:
    """What was seen of a run.

    Args:
        subject: the run.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.seen: dict[str, list[tuple[float, float]]] = defaultdict(list)  # seconds and bytes, by who holds them

    def watch(self, minutes: float) -> None:
        """Look at the run for so long.

        Raises:
            RuntimeError: it ended.
        """
        began = time.monotonic()
        while (now := time.monotonic() - began) < 60 * minutes:
            self._look(now)
            if (code := self.subject.wait(LOOK)) is not None:
                raise RuntimeError(f"exit code {code}\n{self.subject.last_words()}")

    def _look(self, now: float) -> None:
        members = self.subject.members()
        for name, own in _named(members).items():
            held = [memory_of(member.process) for member in own]
            self.seen[name].append((now, sum(each.resident - each.mapped for each in held if each is not None)))
        self.seen["object store"].append((now, store_bytes(members)))

    def slopes(self) -> Json:
        """Bytes held in the end, and how many more an hour would bring, by who holds them."""
        found: Json = {}
        for name, points in self.seen.items():
            seconds, held = np.array(points).T
            late = seconds >= SETTLED * seconds[-1]
            slope, _ = np.polyfit(seconds[late], held[late], 1)
            found[name] = {"bytes": int(held[-1]), "bytes_per_hour": round(slope * 3600), "looks": int(late.sum())}
        return found


def _named(members: Sequence[Member]) -> dict[str, list[Member]]:
    named: dict[str, list[Member]] = defaultdict(list)
    for member in members:
        if member.role in ("driver", "player", "shard", "trainer", "raylet", "gcs_server"):
            named[member.role].append(member)
    return named


def store_bytes(members: Sequence[Member]) -> int:
    """Shared memory that the object store has touched: its file is mapped by the raylet that belongs to the run."""
    for member in members:
        if member.role != "raylet":
            continue
        for line in _store_files(member.process.pid):
            with_size = os.stat(line)
            return with_size.st_blocks * 512
    return 0


def _store_files(pid: int) -> list[str]:
    """Files of the object store that a process has open; they have no name any more."""
    folder = Path(f"/proc/{pid}/fd")
    try:
        return [str(each) for each in folder.iterdir() if "plasma" in os.readlink(each)]
    except OSError:
        return []


def main(args: Sequence[str] | None = None) -> None:
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
