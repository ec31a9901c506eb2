"""Output of a run: the live line, messages, `metrics.jsonl` and TensorBoard events.

This module imports neither torch nor Ray. The driver uses only the protocol `Reporter`, so tests can simulate it.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TextIO

from sheeprl.metrics.display import Display, LiveLine, PlainLines, Progress, Speedometer, is_terminal
from sheeprl.metrics.files import JsonLines, Scalars
from sheeprl.metrics.panel import LivePanel, View
from sheeprl.utils.output import lost_streams

LEVELS = ("debug", "info", "warning", "error")
PLAIN_INTERVAL = 5.0  # seconds between progress lines without a terminal


class Reporter(Protocol):
    """Protocol of a reporter, as the driver uses it."""

    def progress(self, progress: Progress) -> None:
        """Show the progress; cheap enough to call after every change."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Write the metrics of a policy step."""

    def message(self, text: str, level: str = "info") -> None:
        """Show a message, unless it is below `log.level`."""

    def event(self, name: str, /, **values: float | str | None) -> None:
        """Write an event."""

    def close(self) -> None:
        """Show the last progress and close the files; no other method may be called afterwards."""


class FileReporter:
    """Report to a stream and to the files of a run folder.

    On a terminal, progress is one live line below the messages; elsewhere it is a plain line every few seconds.
    `info` messages go to the stream. `warning` and `error` messages go to stderr after their level. With `log.level`
    warning or error, no progress is shown.

    A non-finite value is null in `metrics.jsonl`, which stays valid JSON, and unchanged in the TensorBoard events. The
    first such value also causes a warning. If stdout or stderr can't be written, the run goes on without it, and
    `metrics.jsonl` has an `output_lost` event with the stream's name. If a file can't be written, the constructor and
    the methods raise an OSError that names the file.

    Args:
        run_dir: the run folder; an existing `metrics.jsonl` is continued.
        level: `log.level`; less severe messages aren't shown.
        stream: stream for progress and messages, by default stdout.
        clock: returns seconds, from any zero.
        start_time: seconds that a resumed run took before.
        interval: seconds between progress lines without a terminal.
        resumed_at: policy steps of the checkpoint that the run resumes from; TensorBoard drops later scalars.
        tensorboard: True to write TensorBoard events.
        panel: content of a panel in place of the live line; None for the line.
    """

    def __init__(
        self,
        run_dir: Path,
        level: str,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        start_time: float = 0.0,
        interval: float = PLAIN_INTERVAL,
        resumed_at: int | None = None,
        tensorboard: bool = True,
        panel: View | None = None,
    ) -> None:
        """Make the folder and open the files."""
        stream = sys.stdout if stream is None else stream
        self._level = LEVELS.index(level)
        self._clock = clock
        self._zero = clock() - start_time
        self._display: Display = PlainLines(stream, interval)
        if is_terminal(stream):
            self._display = LiveLine(stream) if panel is None else LivePanel(stream, panel)
        self._speed = Speedometer()
        self._latest: Progress | None = None
        self._shown: Progress | None = None
        self._next_shown = -math.inf
        self._warned_of_nonfinite = False
        self._lost_streams: set[str] = set()
        self._closed = False
        self._step = 0  # policy steps of the newest metrics
        run_dir.mkdir(parents=True, exist_ok=True)
        self._lines = JsonLines(run_dir / "metrics.jsonl")
        self._scalars = Scalars(run_dir, resumed_at) if tensorboard else None

    def progress(self, progress: Progress) -> None:
        """Show the progress, at most once per display interval."""
        if self._level > LEVELS.index("info"):
            return
        now = self._clock()
        self._speed.add(now, progress.policy_steps, progress.gradient_steps)
        self._latest = progress
        if now >= self._next_shown:
            self._next_shown = now + self._display.interval
            self._show_latest()
            self._note_lost_streams()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append a metrics line and TensorBoard scalars; both are on disk on return."""
        self._step = step
        seconds = round(self._clock() - self._zero, 3)
        self._lines.append({"step": step, "time": seconds, **values})
        self._display.add_metrics(step, values)
        if self._scalars is not None:
            self._scalars.add(step, values)
            self._scalars.add_new_videos(step)
        self._warn_of_nonfinite(step, values)

    def message(self, text: str, level: str = "info") -> None:
        """Show a message, above the live line if there is one."""
        rank = LEVELS.index(level)
        if rank < self._level:
            return
        prefix = "" if level == "info" else f"{level}: "
        self._display.write(prefix + text, to_stderr=rank > LEVELS.index("info"))
        self._note_lost_streams()

    def event(self, name: str, /, **values: float | str | None) -> None:
        """Append `{"event": name, ...}` to the metrics."""
        self._lines.append({"event": name, **values})

    def close(self) -> None:
        """Show the last progress, if it isn't shown yet, and close the files. Further calls do nothing."""
        if self._closed:
            return
        self._closed = True
        # The last callback runs first, and an error in one doesn't prevent the others.
        with contextlib.ExitStack() as closing:
            closing.callback(self._lines.close)
            if self._scalars is not None:
                closing.callback(self._scalars.close)
                closing.callback(self._scalars.add_new_videos, self._step)
            closing.callback(self._display.close)
            self._show_latest()

    def _show_latest(self) -> None:
        """Show the newest progress, unless its counters are those that were shown last."""
        if self._latest is not None:
            latest, self._latest = self._latest, None
            if self._shown is None or _counts(latest) != _counts(self._shown):
                self._display.show(latest, self._speed)
            self._shown = latest

    def _note_lost_streams(self) -> None:
        """Write an event for each stream whose text is dropped from now on."""
        for name in lost_streams():
            if name not in self._lost_streams:
                self._lost_streams.add(name)
                self.event("output_lost", stream=name)

    def _warn_of_nonfinite(self, step: int, values: Mapping[str, float]) -> None:
        """Warn of the first non-finite values."""
        bad = [f"{key} is {value}" for key, value in values.items() if not math.isfinite(value)]
        if bad and not self._warned_of_nonfinite:
            self._warned_of_nonfinite = True
            self.message(
                f"{', '.join(bad)} at step {step}: null in metrics.jsonl (no further warnings)",
                "warning",
            )


def _counts(progress: Progress) -> Progress:
    """Return the progress without what changes in time alone."""
    return replace(progress, hint=None, checkpoint_age=None)
