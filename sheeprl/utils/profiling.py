"""Profile a few calls of a worker with torch.profiler, and write them as one trace."""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sheeprl.utils.output import without_native_output

FOLDER = "profile"
"""Folder of the traces, in the run folder."""

SKIPPED_CALLS = 2  # first calls of a method, which compile, warm up and create environments
SUFFIX = ".json.gz"


class Profiler:
    """Profiles a bounded number of calls of each profiled method of one worker.

    Each call is a separate session, since the workers of a coupled run share a process, and torch profiles one
    session at a time.

    Args:
        folder: folder of the trace, None to profile nothing.
        role: the worker, which names the trace.
        calls: number of calls of each method to profile, after its first ones.
        with_stack: record the functions of Python as well, which slows each of them down.
    """

    def __init__(self, folder: Path | None, role: str, calls: int, with_stack: bool = False) -> None:
        """Store the arguments."""
        self.role, self.calls, self.with_stack = role, calls, with_stack
        self._folder = folder
        self._seen: Counter[str] = Counter()
        self._trace: dict[str, Any] = {}

    @contextlib.contextmanager
    def call(self, name: str) -> Iterator[None]:
        """Profile the block, if it is one of the calls to profile; write the trace after the last of a method.

        Args:
            name: name of the call in the trace.
        """
        self._seen[name] += 1
        number = self._seen[name] - SKIPPED_CALLS
        if self._folder is None or not 1 <= number <= self.calls:
            yield
            return
        import torch.profiler

        session = torch.profiler.profile(with_stack=self.with_stack)
        with without_native_output():  # it logs that it starts and stops
            session.start()
        try:
            with torch.profiler.record_function(f"{self.role}: {name}"):
                yield
        finally:
            with without_native_output():
                session.stop()
        self._add(session)
        if number == self.calls:
            self._write(self._folder)

    def _add(self, session: Any) -> None:
        """Add the events of a session to the trace, on the time axis of the first one."""
        handle, path = tempfile.mkstemp(suffix=".json")
        os.close(handle)
        try:
            session.export_chrome_trace(path)
            trace = json.loads(Path(path).read_text(encoding="utf-8", errors="replace"))
        finally:
            os.unlink(path)
        if not self._trace:
            self._trace = trace
            return
        shift = (trace.get("baseTimeNanoseconds", 0) - self._trace.get("baseTimeNanoseconds", 0)) / 1000
        for event in trace["traceEvents"]:
            if "ts" in event:
                event["ts"] += shift
        self._trace["traceEvents"] += trace["traceEvents"]

    def _write(self, folder: Path) -> None:
        """Write the trace, which has the calls of all methods so far."""
        folder.mkdir(parents=True, exist_ok=True)
        with gzip.open(folder / f"{self.role.replace(' ', '_')}{SUFFIX}", "wt", encoding="utf-8") as file:
            json.dump(self._trace, file)


class Profiled(Protocol):
    """Worker with a profiler."""

    profiler: Profiler


W = TypeVar("W", bound=Profiled)
P = ParamSpec("P")
T = TypeVar("T")


def profiled(method: Callable[Concatenate[W, P], T]) -> Callable[Concatenate[W, P], T]:
    """Return a method of a worker whose calls its profiler sees."""

    @functools.wraps(method)
    def call(worker: W, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the method."""
        with worker.profiler.call(method.__name__):
            return method(worker, *args, **kwargs)

    return call


def make_profiler(run_dir: str | None, rounds: int, role: str, with_stack: bool = False) -> Profiler:
    """Return the profiler of a worker.

    Args:
        run_dir: folder of the run; None if this process doesn't know it.
        rounds: number of rounds to profile; 0 for none.
        role: the worker.
        with_stack: record the functions of Python as well.
    """
    return Profiler(Path(run_dir) / FOLDER if run_dir and rounds else None, role, rounds, with_stack)


def traces(run_dir: Path) -> list[Path]:
    """Return the traces of a run."""
    return sorted((run_dir / FOLDER).glob(f"*{SUFFIX}"))


def profile_lines(run_dir: Path) -> list[str]:
    """Return the lines about the traces at the end of a profiled run."""
    found = traces(run_dir)
    if not found:
        return [f"profile: no trace, since the run ended before its round {SKIPPED_CALLS + 1} was profiled"]
    names = ", ".join(path.name.removesuffix(SUFFIX) for path in found)
    lines = [f"profile: {run_dir / FOLDER} ({names}); open the files at https://ui.perfetto.dev"]
    if shutil.which("py-spy"):
        lines.append("profile: `py-spy record --native --pid PID -o FILE.svg` samples a worker while it runs")
    return lines
