"""A process that prepares a measurement once and repeats it on request: client and server. Standard library only.

Compared programs fill their buffers once and then take turns, so changes of the machine's speed affect all of them.
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
    """Raised when a process ends without an answer; the message is the last line that it printed."""


class Worker:
    """Client of a process that measures.

    Args:
        command: command of a process that calls `serve`.
        variables: its environment variables.
        folder: its working directory.

    Raises:
        WorkerError: the preparation failed.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], folder: Path) -> None:
        """Start the process and wait until it is prepared."""
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed in `close`
        try:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                text=True,
            )
        except OSError as error:
            raise WorkerError(str(error)) from error
        self.about = self._answer()

    def measure(self) -> Figures:
        """Measure one round."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `_answer` raises an error with the cause
            print("measure", file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._stderr.close()

    def _answer(self) -> Json:
        """Return the next answer of the process."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                answer: Json = json.loads(line[len(MARK) :])
                return answer
        code = self._process.wait()
        self._stderr.seek(0)
        lines = [line.strip() for line in self._stderr if line.strip()] or ["nothing on stderr"]
        self.close()
        raise WorkerError(f"exit code {code}: {lines[-1][:300]}")


MARK = "answer "  # distinguishes answers from the output of libraries


def serve(prepare: Callable[[], Callable[[], Figures]], about: Callable[[], Json] = dict) -> None:
    """Prepare, then measure at every line on stdin until it is closed.

    Args:
        prepare: returns the function that measures.
        about: returns the first answer, after the preparation.
    """
    measure = prepare()
    print(MARK + json.dumps(about()), flush=True)
    for _ in sys.stdin:
        print(MARK + json.dumps(measure()), flush=True)


def seconds_per_call(function: Callable[[], object], seconds: float = 0.5, least: int = 5) -> float:
    """Return the median time of a call over `seconds` and at least `least` calls, after a warm-up call."""
    function()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def one_thread(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return an environment in which numeric libraries use one thread."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict(variables) | {name: "1" for name in names}
