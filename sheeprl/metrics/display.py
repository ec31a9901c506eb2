"""Progress of a run, shown as a live line on a terminal or as plain lines elsewhere."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import RenderableType

LIVE_INTERVAL = 0.25  # seconds between updates of the live line
SPEED_WINDOW = 10.0  # seconds, window of the displayed rates
LEFT_WINDOW = 60.0  # seconds, longer window for a steadier time left


@dataclass(frozen=True)
class Progress:
    """Progress of a run.

    `mean_return` is None before the first episode ends. `hint` names the bottleneck of the trainer, if there is one.
    `checkpoint_age` is the time in seconds since the newest checkpoint, None before the first one of this process.
    """

    policy_steps: int
    total_steps: int
    gradient_steps: int
    mean_return: float | None
    players_alive: int
    players: int
    hint: str | None = None
    checkpoint_age: float | None = None


class Rates(NamedTuple):
    """Policy and gradient steps per second."""

    policy: float
    gradient: float


class _Count(NamedTuple):
    """Step counts at a time."""

    time: float
    policy_steps: int
    gradient_steps: int


class Speedometer:
    """Steps per second over a recent window. The first counts are the zero, so steps before a resume don't count."""

    def __init__(self) -> None:
        """Start without counts."""
        self._counts: deque[_Count] = deque()
        self._latest: _Count | None = None

    def add(self, now: float, policy_steps: int, gradient_steps: int) -> None:
        """Add the step counts at a time."""
        latest = self._latest
        if latest and (policy_steps < latest.policy_steps or gradient_steps < latest.gradient_steps):
            self._counts.clear()  # the run went back to a checkpoint
        self._latest = _Count(now, policy_steps, gradient_steps)
        if not self._counts or now - self._counts[-1].time >= LIVE_INTERVAL:
            self._counts.append(self._latest)
        while len(self._counts) > 1 and self._counts[1].time <= now - LEFT_WINDOW:
            self._counts.popleft()

    def rates(self, window: float) -> Rates | None:
        """Return the average rates over about the last `window` seconds, None before the second call of `add`."""
        latest = self._latest
        if latest is None:
            return None
        older = (count for count in reversed(self._counts) if count.time <= latest.time - window)
        base = next(older, self._counts[0])
        seconds = latest.time - base.time
        if seconds <= 0:
            return None
        policy_steps = latest.policy_steps - base.policy_steps
        return Rates(policy_steps / seconds, (latest.gradient_steps - base.gradient_steps) / seconds)


class Display(Protocol):
    """Protocol of the displays for progress and messages."""

    interval: float

    def show(self, progress: Progress, speed: Speedometer) -> None:
        """Show the progress."""

    def add_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Use a line of metrics."""

    def write(self, text: str, to_stderr: bool) -> None:
        """Show a message."""

    def close(self) -> None:
        """End the display."""


class PlainLines:
    """Plain lines of text, for files, pipes and job logs."""

    def __init__(self, stream: TextIO, interval: float) -> None:
        """Store the stream and the interval between lines."""
        self.interval = interval
        self._stream = stream

    def show(self, progress: Progress, speed: Speedometer) -> None:
        """Print the progress as a line."""
        print(describe(progress, speed), file=self._stream, flush=True)

    def add_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def write(self, text: str, to_stderr: bool) -> None:
        """Print a message as a line."""
        print(text, file=sys.stderr if to_stderr else self._stream, flush=True)

    def close(self) -> None:
        """Do nothing."""


class LiveLine:
    """Line at the bottom of a terminal, updated in place; other output appears above it."""

    interval = LIVE_INTERVAL

    def __init__(self, stream: TextIO) -> None:
        """Prepare the live line; the first progress starts it."""
        from rich.console import Console
        from rich.live import Live

        self._stream = stream
        self._console = Console(file=stream, force_terminal=True, highlight=False, markup=False, emoji=False)
        # Redirect only output to this terminal: `2> errors.txt` must still receive the errors.
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=stream is sys.stdout,
            redirect_stderr=sys.stderr.isatty(),
        )

    def show(self, progress: Progress, speed: Speedometer) -> None:
        """Update the live line."""
        self._live.update(self._drawn(progress, speed))
        self._live.start()
        self._live.refresh()

    def _drawn(self, progress: Progress, speed: Speedometer) -> RenderableType:
        """Return the line."""
        from rich.text import Text

        return Text(describe(progress, speed, self._console.width), no_wrap=True, overflow="crop")

    def add_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def write(self, text: str, to_stderr: bool) -> None:
        """Print a message above the live line, or to a redirected stderr."""
        stream = sys.stderr if to_stderr else self._stream
        if self._live.is_started and stream.isatty():
            self._console.print(text, soft_wrap=True)  # the terminal wraps the text, so that a path can be copied
        else:
            print(text, file=stream, flush=True)

    def close(self) -> None:
        """Stop updating the live line."""
        self._live.stop()


def is_terminal(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that can update a line, independently of FORCE_COLOR."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def describe(progress: Progress, speed: Speedometer, width: int | None = None) -> str:
    """Format the progress as one line of at most `width` columns, shortened if necessary."""
    rates = speed.rates(SPEED_WINDOW)
    policy_rate = short_number(rates.policy) if rates else "-"
    gradient_rate = short_number(rates.gradient) if rates else "-"
    steps, total = progress.policy_steps, progress.total_steps
    rest = [
        f"return {short_return(progress.mean_return)}",
        f"players {progress.players_alive}/{progress.players}",
        f"{time_left(progress, speed)} left",
    ]
    hint = [progress.hint] if progress.hint else []
    full = [
        f"policy steps {steps:,}/{total:,} ({_percent(steps, total)})",
        f"{policy_rate} steps/s",
        f"{gradient_rate} gradient steps/s",
    ]
    for parts in (full + rest + hint, full + rest):
        line = " | ".join(parts)
        if width is None or len(line) <= width:
            return line
    short = [f"{short_number(steps)}/{short_number(total)}", f"{policy_rate} steps/s", f"{gradient_rate} grad/s"]
    return "  ".join(short + rest)[:width]


def time_left(progress: Progress, speed: Speedometer) -> str:
    """Format the estimated time until the end of the run."""
    rates = speed.rates(LEFT_WINDOW)
    steps = max(progress.total_steps - progress.policy_steps, 0)
    if steps and (rates is None or rates.policy == 0):
        return "-"
    seconds = round(steps / rates.policy) if steps and rates else 0
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days}d{hours % 24}h"
    if hours:
        return f"{hours}h{minutes % 60}m"
    return f"{minutes}m{seconds % 60}s" if minutes else f"{seconds}s"


def _percent(steps: int, total: int) -> str:
    """Format the finished part of the run in percent."""
    return f"{min(100, 100 * steps // max(total, 1))}%"  # rounded down: 100% means done; a last round may exceed it


def short_return(value: float | None) -> str:
    """Format a mean return."""
    if value is None:
        return "-"
    return short_number(value) if abs(value) >= 100_000 else f"{value:.2f}" if abs(value) < 1000 else f"{value:.0f}"


def short_number(number: float) -> str:
    """Format a number with three digits and a unit, as in 12.3k."""
    for unit in ("", "k", "M", "G"):
        if abs(number) < 999.5:  # above, three digits would round to 1e+03
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"
