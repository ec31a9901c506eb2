"""A run as a subprocess: started by the command line and observed through its metrics and processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import record
from benchmarks.harness.processes import Member, Process, members
from benchmarks.harness.record import Json

LOOK = 0.1  # seconds between two polls of a run
CENSUS = 0.5  # seconds between two searches for its processes


@dataclass(frozen=True)
class Seen:
    """Line of metrics with the time at which it was read.

    Args:
        at: time at which it was read, on the monotonic clock.
        values: its metrics.
    """

    at: float
    values: Json


class Subject:
    """Run in `run_dir`, started as a subprocess and resumed if its driver is killed.

    Args:
        run_dir: new run folder.
        words: arguments of `sheeprl run`, except the folder.
    """

    def __init__(self, run_dir: Path, words: Sequence[str]) -> None:
        """Start the driver."""
        self.run_dir = run_dir
        self.lines: list[Seen] = []
        self.all_processes: set[Process] = set()  # all processes that the run ever had
        self.log = run_dir.with_suffix(".log")
        self._read = 0  # bytes of metrics
        self._counted = 0.0  # time of the last search for processes
        self._driver = self._start("run", *words, f"run.dir={run_dir}")

    def resume(self) -> None:
        """Resume a run whose driver is gone."""
        self._driver = self._start("resume", str(self.run_dir))

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a driver that appends its output to the log."""
        self.began, self.under_way = time.monotonic(), False
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "sheeprl", *words]
            return subprocess.Popen(command, cwd=record.ROOT, env=record.environment(), stdout=log, stderr=log)

    def look(self) -> int | None:
        """Read new metrics and record the run's processes; return the driver's exit code if it has ended."""
        code = self._driver.poll()
        self._follow()
        if code is None and time.monotonic() - self._counted > CENSUS:
            self.members()
        return code

    def wait(self, seconds: float) -> int | None:
        """Follow the run for `seconds`; return the driver's exit code if it ends before."""
        until = time.monotonic() + seconds
        while (code := self.look()) is None and time.monotonic() < until:
            time.sleep(LOOK)
        return code

    def members(self) -> list[Member]:
        """Return the current processes of the run."""
        found = members(self._driver.pid)
        self.all_processes |= {member.process for member in found}
        self._counted = time.monotonic()
        return found

    def survivors(self) -> list[Process]:
        """Return the processes that the run ever had and that are still alive."""
        return [process for process in self.all_processes if process.alive()]

    def time_until_gone(self, most: float) -> float:
        """Return the seconds until all processes of an ended run are gone; infinity after `most` seconds."""
        began = time.monotonic()
        while self.survivors():
            if time.monotonic() - began > most:
                return float("inf")
            time.sleep(LOOK)
        return time.monotonic() - began

    def end(self) -> None:
        """Kill all processes of the run."""
        if self._driver.poll() is None:
            self.members()
            self._driver.kill()
            self._driver.wait()
        for process in self.survivors():
            process.kill()

    def last_words(self, count: int = 5) -> str:
        """Return the last lines of the output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    def newest(self, key: str, before: float = float("inf")) -> float:
        """Return the newest value of a metric seen before a time; 0 if there is none."""
        return next((seen.values[key] for seen in reversed(self.lines) if seen.at < before and key in seen.values), 0)

    def _follow(self) -> None:
        """Read new lines of metrics."""
        path = self.run_dir / "metrics.jsonl"
        size = path.stat().st_size if path.exists() else 0
        if size < self._read:  # a resumed run truncates the file to its checkpoint
            self._read = size
        if size == self._read:
            return
        with path.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        text = text[: text.rfind(b"\n") + 1]
        self._read += len(text)
        for line in text.splitlines():
            self.lines.append(Seen(time.monotonic(), json.loads(line)))
            self.under_way |= "Time/sps" in self.lines[-1].values


def ran(words: Sequence[str], run_dir: Path) -> Subject:
    """Run to the end and return the finished run.

    Raises:
        RuntimeError: the run failed.
    """
    subject = Subject(run_dir, words)
    try:
        while (code := subject.wait(60)) is None:
            pass
        if code:
            raise RuntimeError(f"{run_dir.name}: exit code {code}\n{subject.last_words()}")
    finally:
        subject.end()
    return subject
