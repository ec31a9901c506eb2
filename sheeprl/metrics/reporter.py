"""What a run tells: the live line, messages, `metrics.jsonl` and TensorBoard events.

No torch and no Ray here. The driver knows only `Reporter`, so that it can be run in simulation.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TextIO

LEVELS = ("debug", "info", "warning", "error")
LIVE_INTERVAL = 0.25  # seconds between two drawings of the live line
PLAIN_INTERVAL = 5.0  # seconds between two progress lines where there is no terminal
SPEED_WINDOW = 10.0  # seconds that the rates shown are averaged over
LEFT_WINDOW = 60.0  # and those behind the time left, which should jump less


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    `mean_return` is None while no episode has ended; `hint` is what takes the trainer's time, if anything stands out.
    """

    policy_steps: int
    total_steps: int
    gradient_steps: int
    mean_return: float | None
    players_alive: int
    players: int
    hint: str | None = None


class Reporter(Protocol):
    """What the driver needs of a reporter."""

    def progress(self, progress: Progress) -> None:
        """Show where the run stands; cheap, to be called as often as it changes."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Write down the metrics of a policy step."""

    def message(self, text: str, level: str = "info") -> None:
        """Tell the user something, if `log.level` lets it through."""

    def event(self, name: str, /, **values: float | str | None) -> None:
        """Write down that something happened."""

    def close(self) -> None:
        """Show the last progress and close the files; nothing may be reported afterwards."""


class FileReporter:
    """Reports on a stream and into the files of a run's folder.

    On a terminal progress is one live line with the messages above it, elsewhere a plain line now and then.
    `info` messages go to the stream as they are, `warning` and `error` to stderr with their level before them; at
    `log.level` warning or error there is no progress at all.

    A value that isn't finite is null in `metrics.jsonl`, which stays valid JSON, and itself in the TensorBoard
    events, where it gets a mark; the first time a warning says so. A file that can't be written raises an OSError that
    names it, here or when something is reported.

    Args:
        run_dir: the run's folder; an existing `metrics.jsonl` in it is continued.
        level: `log.level`; messages below it aren't shown.
        stream: where to show progress, by default stdout.
        clock: seconds, from any zero.
        start_time: seconds that the earlier parts of a resumed run took.
        interval: seconds between two progress lines where there is no terminal.

    """

    def __init__(
        self,
        run_dir: Path,
        level: str,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        start_time: float = 0.0,
        interval: float = PLAIN_INTERVAL,
    ) -> None:
        stream = sys.stdout if stream is None else stream
        self._level = LEVELS.index(level)
        self._clock = clock
        self._zero = clock() - start_time
        self._display: _Display = _LiveLine(stream) if _is_terminal(stream) else _PlainLines(stream, interval)
        self._speed = Speedometer()
        self._latest: Progress | None = None
        self._next_shown = -math.inf
        self._warned_of_nonfinite = False
        self._closed = False
        run_dir.mkdir(parents=True, exist_ok=True)
        self._lines = JsonLines(run_dir / "metrics.jsonl")
        self._scalars = _Scalars(run_dir)

    def progress(self, progress: Progress) -> None:
        """Show where the run stands, unless that was done a moment ago."""
        if self._level > LEVELS.index("info"):
            return
        now = self._clock()
        self._speed.add(now, progress.policy_steps, progress.gradient_steps)
        self._latest = progress
        if now >= self._next_shown:
            self._next_shown = now + self._display.interval
            self._show_latest()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append a line of metrics and the same as TensorBoard scalars; both are on disk on return."""
        seconds = round(self._clock() - self._zero, 3)
        self._lines.append({"step": step, "time": seconds, **values})
        self._scalars.add(step, values)
        self._warn_of_nonfinite(step, values)

    def message(self, text: str, level: str = "info") -> None:
        """Show a text, above the live line if there is one."""
        rank = LEVELS.index(level)
        if rank < self._level:
            return
        prefix = "" if level == "info" else f"{level}: "
        self._display.write(prefix + text, to_stderr=rank > LEVELS.index("info"))

    def event(self, name: str, /, **values: float | str | None) -> None:
        """Append `{"event": name, ...}` to the metrics."""
        self._lines.append({"event": name, **values})

    def close(self) -> None:
        """Show the last progress, if it isn't shown yet, and close the files. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        with contextlib.ExitStack() as closing:  # each is closed, whatever happens to the others
            closing.callback(self._lines.close)
            closing.callback(self._scalars.close)
            closing.callback(self._display.close)
            self._show_latest()

    def _show_latest(self) -> None:
        if self._latest is not None:
            latest, self._latest = self._latest, None
            self._display.show(latest, self._speed)

    def _warn_of_nonfinite(self, step: int, values: Mapping[str, float]) -> None:
        bad = [f"{key} is {value}" for key, value in values.items() if not math.isfinite(value)]
        if bad and not self._warned_of_nonfinite:
            self._warned_of_nonfinite = True
            self.message(f"{', '.join(bad)} at step {step}: null in metrics.jsonl (this is said once)", "warning")


class JsonLines:
    """A file of one JSON object a line, each on disk as soon as it is appended.

    The half line that a killed writer may have left at the end is taken away on opening.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _naming(path):
            self._file = path.open("ab", buffering=0)  # unbuffered: a failed write isn't tried again on closing
            self._end_last_line()

    def append(self, values: Mapping[str, float | str | None]) -> None:
        """Append an object; a number that isn't finite becomes null."""
        line = json.dumps({key: _plain(value) for key, value in values.items()}, allow_nan=False) + "\n"
        with _naming(self._path):
            size = os.fstat(self._file.fileno()).st_size
            try:
                self._write(line.encode())
            except OSError:
                with contextlib.suppress(OSError):
                    self._file.truncate(size)
                raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, data: bytes) -> None:
        while data:  # a disk that fills up takes a part first, and tells of the error only after that
            data = data[self._file.write(data) :]

    def _end_last_line(self) -> None:
        if not self._path.stat().st_size:
            return
        content = self._path.read_bytes()
        tail = content.rpartition(b"\n")[2]
        try:
            json.loads(tail or b"{}")
        except ValueError:
            self._file.truncate(len(content) - len(tail))
        else:
            self._write(b"\n" if tail else b"")


def rewind(run_dir: Path, size: int) -> None:
    """Have `metrics.jsonl` go on where it was `size` bytes long; what a resumed run does again leaves it.

    Metrics past that go into `metrics_undone.jsonl`; events stay, since they are what happened.
    """
    path = run_dir / "metrics.jsonl"
    if not path.exists() or path.stat().st_size <= size:
        return
    content = path.read_bytes()
    later = content[size:].splitlines(keepends=True)
    events = [line for line in later if line.startswith(b'{"event"')]
    with (run_dir / "metrics_undone.jsonl").open("ab") as file:
        file.write(b"".join(line for line in later if line not in events))
    partial = path.with_name(".metrics.jsonl.part")
    partial.write_bytes(content[:size] + b"".join(events))
    partial.replace(path)


class _Scalars:
    """TensorBoard's scalars, on disk as soon as they are added."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.event_file_writer import EventFileWriter  # slow: not in `sheeprl --help`

        self._path = folder / "events.out.tfevents.*"
        self._make_event = Event
        with _naming(self._path):
            self._writer = EventFileWriter(str(folder))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        # All of a step as one event: the writer's thread is woken up for each, which costs more than to write it.
        event = self._make_event(wall_time=time.time(), step=step)
        for key, value in values.items():
            event.summary.value.add(tag=key, simple_value=value)
        with _naming(self._path):
            self._writer.add_event(event)
            self._writer.flush()

    def close(self) -> None:
        with _naming(self._path):
            self._writer.close()


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let every OSError name a file: those of a write name none."""
    try:
        yield
    except OSError as error:
        file = os.fsdecode(error.filename or path)
        raise OSError(error.errno, error.strerror or str(error), file) from error


def _plain(value: float | str | None) -> float | str | None:
    """A value as JSON can hold it; NumPy's numbers become Python's."""
    if value is None or isinstance(value, (str, int)):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


class Rates(NamedTuple):
    """Steps per second."""

    policy: float
    gradient: float


class _Count(NamedTuple):
    time: float
    policy_steps: int
    gradient_steps: int


class Speedometer:
    """Steps per second over the last seconds. The first counts given are the zero, so old steps never count."""

    def __init__(self) -> None:
        self._counts: deque[_Count] = deque()
        self._latest: _Count | None = None

    def add(self, now: float, policy_steps: int, gradient_steps: int) -> None:
        """Take in the counts at a time."""
        latest = self._latest
        if latest and (policy_steps < latest.policy_steps or gradient_steps < latest.gradient_steps):
            self._counts.clear()  # the run went back to a checkpoint
        self._latest = _Count(now, policy_steps, gradient_steps)
        if not self._counts or now - self._counts[-1].time >= LIVE_INTERVAL:
            self._counts.append(self._latest)
        while len(self._counts) > 1 and self._counts[1].time <= now - LEFT_WINDOW:
            self._counts.popleft()

    def rates(self, window: float) -> Rates | None:
        """The average over the last `window` seconds, or a little more; None while there is nothing to average."""
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


class _Display(Protocol):
    """Where progress and messages are seen."""

    interval: float

    def show(self, progress: Progress, speed: Speedometer) -> None: ...

    def write(self, text: str, to_stderr: bool) -> None: ...

    def close(self) -> None: ...


class _PlainLines:
    """Lines of text, for files, pipes and the logs of a job."""

    def __init__(self, stream: TextIO, interval: float) -> None:
        self.interval = interval
        self._stream = stream

    def show(self, progress: Progress, speed: Speedometer) -> None:
        print(describe(progress, speed), file=self._stream, flush=True)

    def write(self, text: str, to_stderr: bool) -> None:
        print(text, file=sys.stderr if to_stderr else self._stream, flush=True)

    def close(self) -> None:
        pass


class _LiveLine:
    """One line at the bottom of a terminal, drawn over again; whatever else is printed goes above it."""

    interval = LIVE_INTERVAL

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self._stream = stream
        self._console = Console(file=stream, force_terminal=True, highlight=False, markup=False, emoji=False)
        # Only what goes to this same terminal is caught: `2> errors.txt` has to get its errors.
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=stream is sys.stdout,
            redirect_stderr=sys.stderr.isatty(),
        )

    def show(self, progress: Progress, speed: Speedometer) -> None:
        from rich.text import Text

        line = Text(describe(progress, speed, self._console.width), no_wrap=True, overflow="crop")
        self._live.update(line)
        self._live.start()
        self._live.refresh()

    def write(self, text: str, to_stderr: bool) -> None:
        stream = sys.stderr if to_stderr else self._stream
        if self._live.is_started and stream.isatty():
            self._console.print(text, soft_wrap=True)  # the terminal wraps it, so that a path can be copied whole
        else:
            print(text, file=stream, flush=True)

    def close(self) -> None:
        self._live.stop()


def _is_terminal(stream: TextIO) -> bool:
    """Whether lines can be drawn over. Colours forced by FORCE_COLOR don't make a log file a terminal."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def describe(progress: Progress, speed: Speedometer, width: int | None = None) -> str:
    """The run on one line: in full if that fits into `width` columns, else shorter, cut as the last resort."""
    rates = speed.rates(SPEED_WINDOW)
    policy_rate = _short(rates.policy) if rates else "-"
    gradient_rate = _short(rates.gradient) if rates else "-"
    steps, total = progress.policy_steps, progress.total_steps
    rest = [
        f"return {_return(progress.mean_return)}",
        f"players {progress.players_alive}/{progress.players}",
        f"{_time_left(progress, speed)} left",
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
    short = [f"{_short(steps)}/{_short(total)}", f"{policy_rate} steps/s", f"{gradient_rate} grad/s"]
    return "  ".join(short + rest)[:width]


def _time_left(progress: Progress, speed: Speedometer) -> str:
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
    return f"{min(100, 100 * steps // max(total, 1))}%"  # rounded down: 100% means done; a last round may exceed it


def _return(value: float | None) -> str:
    if value is None:
        return "-"
    return _short(value) if abs(value) >= 100_000 else f"{value:.2f}" if abs(value) < 1000 else f"{value:.0f}"


def _short(number: float) -> str:
    """Three digits and a unit, as in 12.3k."""
    for unit in ("", "k", "M", "G"):
        if abs(number) < 999.5:  # above, three digits would round to 1e+03
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"
