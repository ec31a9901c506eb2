"""A process that prepares something once and measures it once a line: the two ends of it. Standard library only.

Programs that are compared keep their filled buffers and take turns, so that a machine whose speed drifts drifts for
all of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Figures = dict[str, float]
Json = dict[str, Any]


class WorkerError(RuntimeError):
    """A process ended without an answer; the message is the last that it said."""


class Worker:
    """The end that asks.

    Args:
        command: of a process that calls `serve`.
        variables: its environment.
        folder: where it runs.

    Raises:
        WorkerError: it could not prepare itself.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], folder: Path) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed in `close`
        try:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
            )
        except OSError as error:
            raise WorkerError(str(error)) from error
        self.about = self._answer()

    def measure(self) -> Figures:
        """One round."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the missing answer says more
            print("measure", file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """Let the process end."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._said.close()

    def _answer(self) -> Json:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                answer: Json = json.loads(line[len(MARK) :])
                return answer
        code = self._process.wait()
        self._said.seek(0)
        lines = [line.strip() for line in self._said if line.strip()] or ["nothing on stderr"]
        self.close()
        raise WorkerError(f"exit code {code}: {lines[-1][:300]}")


MARK = "answer "  # so that what libraries print on stdout isn't taken for one


def serve(prepare: Callable[[], Callable[[], Figures]], about: Callable[[], Json] = dict) -> None:
    """The end that answers: prepare, then measure at every line on stdin, until it is closed.

    Args:
        prepare: gives the function that measures.
        about: what is said once when all is prepared.
    """
    measure = prepare()
    print(MARK + json.dumps(about()), flush=True)
    for _ in sys.stdin:
        print(MARK + json.dumps(measure()), flush=True)


def seconds_per_call(function: Callable[[], object], seconds: float = 0.5, least: int = 5) -> float:
    """Median time of a call, after one that isn't counted: for `seconds`, but `least` calls at least."""
    function()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def one_thread(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """An environment in which numeric libraries use one thread."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict(variables) | {name: "1" for name in names}
