"""A run that is watched from outside: started as a user starts it, followed by the metrics that it writes."""

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

LOOK = 0.1  # seconds between two looks at a run
CENSUS = 0.5  # seconds between two looks at which processes it has


@dataclass(frozen=True)
class Seen:
    """A line of metrics.

    Args:
        at: when it was seen, by the monotonic clock.
        values: what it says.
    """

    at: float
    values: Json


class Subject:
    """A run in `run_dir`, through as many drivers as it takes.

    Args:
        run_dir: its folder, not there yet.
        words: what follows `sheeprl run`, besides the folder.
    """

    def __init__(self, run_dir: Path, words: Sequence[str]) -> None:
        self.run_dir = run_dir
        self.lines: list[Seen] = []
        self.everybody: set[Process] = set()  # every process that it ever had
        self.said = run_dir.with_suffix(".log")
        self._read = 0  # bytes of metrics
        self._counted = 0.0  # when processes were looked for last
        self._driver = self._start("run", *words, f"run.dir={run_dir}")

    def resume(self) -> None:
        """Go on with a run whose driver is gone."""
        self._driver = self._start("resume", str(self.run_dir))

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        self.began, self.under_way = time.monotonic(), False
        with self.said.open("ab") as said:
            command = [sys.executable, "-m", "sheeprl", *words]
            return subprocess.Popen(command, cwd=record.ROOT, env=record.environment(), stdout=said, stderr=said)

    def look(self) -> int | None:
        """See what it has written, and who belongs to it; the driver's exit code once it has ended."""
        code = self._driver.poll()
        self._follow()
        if code is None and time.monotonic() - self._counted > CENSUS:
            self.members()
        return code

    def wait(self, seconds: float) -> int | None:
        """Follow it for some time; the driver's exit code if it ends meanwhile."""
        until = time.monotonic() + seconds
        while (code := self.look()) is None and time.monotonic() < until:
            time.sleep(LOOK)
        return code

    def members(self) -> list[Member]:
        """The processes that it has now."""
        found = members(self._driver.pid)
        self.everybody |= {member.process for member in found}
        self._counted = time.monotonic()
        return found

    def survivors(self) -> list[Process]:
        """The processes that it ever had and that still run."""
        return [process for process in self.everybody if process.alive()]

    def time_until_gone(self, most: float) -> float:
        """Seconds until nobody of a run whose driver has ended is left; infinite if some are after `most` seconds."""
        began = time.monotonic()
        while self.survivors():
            if time.monotonic() - began > most:
                return float("inf")
            time.sleep(LOOK)
        return time.monotonic() - began

    def end(self) -> None:
        """Leave nobody behind, whatever happened."""
        if self._driver.poll() is None:
            self.members()
            self._driver.kill()
            self._driver.wait()
        for process in self.survivors():
            process.kill()

    def last_words(self, count: int = 5) -> str:
        """The last lines that it printed."""
        return "\n".join(self.said.read_text(errors="replace").splitlines()[-count:])

    def newest(self, key: str, before: float = float("inf")) -> float:
        """The newest value of a metric, of those seen before some moment; 0 if there is none."""
        return next((seen.values[key] for seen in reversed(self.lines) if seen.at < before and key in seen.values), 0)

    def _follow(self) -> None:
        path = self.run_dir / "metrics.jsonl"
        size = path.stat().st_size if path.exists() else 0
        if size < self._read:  # a resumed run goes on from the line of its checkpoint
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
    """A run that was left alone until its end.

    Raises:
        RuntimeError: it failed.
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
