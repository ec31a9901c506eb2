"""Output of a run: the live line, messages, `metrics.jsonl` and TensorBoard events.

This module imports neither torch nor Ray. The driver uses only the protocol `Reporter`, so tests can simulate it.
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

from sheeprl.utils.files import write_atomically
from sheeprl.utils.output import lost_streams

LEVELS = ("debug", "info", "warning", "error")
LIVE_INTERVAL = 0.25  # seconds between updates of the live line
PLAIN_INTERVAL = 5.0  # seconds between progress lines without a terminal
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
    ) -> None:
        """Make the folder and open the files."""
        stream = sys.stdout if stream is None else stream
        self._level = LEVELS.index(level)
        self._clock = clock
        self._zero = clock() - start_time
        self._display: _Display = _LiveLine(stream) if _is_terminal(stream) else _PlainLines(stream, interval)
        self._speed = Speedometer()
        self._latest: Progress | None = None
        self._shown: Progress | None = None
        self._next_shown = -math.inf
        self._warned_of_nonfinite = False
        self._lost_streams: set[str] = set()
        self._closed = False
        run_dir.mkdir(parents=True, exist_ok=True)
        self._lines = JsonLines(run_dir / "metrics.jsonl")
        self._scalars = _Scalars(run_dir, resumed_at) if tensorboard else None

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
        seconds = round(self._clock() - self._zero, 3)
        self._lines.append({"step": step, "time": seconds, **values})
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
        with contextlib.ExitStack() as closing:  # an error in one callback doesn't prevent the others
            closing.callback(self._lines.close)
            if self._scalars is not None:
                closing.callback(self._scalars.close)
            closing.callback(self._display.close)
            self._show_latest()

    def _show_latest(self) -> None:
        """Show the newest progress, unless its counters are those that were shown last."""
        if self._latest is not None:
            latest, self._latest = self._latest, None
            if self._shown is None or replace(latest, hint=None) != replace(self._shown, hint=None):
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


class JsonLines:
    """File with one JSON object per line, each on disk when `append` returns.

    Opening the file removes an incomplete last line of a killed writer.
    """

    def __init__(self, path: Path) -> None:
        """Open the file and remove an incomplete last line."""
        self._path = path
        with _naming(path):
            self._file = path.open("ab", buffering=0)  # unbuffered: closing doesn't repeat a failed write
            self._end_last_line()

    def append(self, values: Mapping[str, Any]) -> None:
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
        """Write all bytes."""
        while data:  # a full disk first accepts a part, then raises
            data = data[self._file.write(data) :]

    def _end_last_line(self) -> None:
        """Remove an incomplete last line, or add its missing line break."""
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
    """Truncate `metrics.jsonl` to its size at a checkpoint, in bytes, because the resumed run repeats what follows.

    Later metrics move to `metrics_undone.jsonl`. Later events stay.
    """
    path = run_dir / "metrics.jsonl"
    if not path.exists() or path.stat().st_size <= size:
        return
    content = path.read_bytes()
    later = content[size:].splitlines(keepends=True)
    events = [line for line in later if line.startswith(b'{"event"')]
    with (run_dir / "metrics_undone.jsonl").open("ab") as file:
        file.write(b"".join(line for line in later if line not in events))
    write_atomically(path, content[:size] + b"".join(events), sync=False)


class _Scalars:
    """TensorBoard scalars, on disk when `add` returns."""

    def __init__(self, folder: Path, resumed_at: int | None) -> None:
        """Open an event file in the folder."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter  # slow: not for `sheeprl --help`

        self._path = folder / "events.out.tfevents.*"
        self._videos = folder / "videos"
        self._shown = set(self._find_videos())
        self._make_event = Event
        with _naming(self._path):
            self._writer = EventFileWriter(str(folder))
            if resumed_at is not None:
                # At this event TensorBoard drops the scalars of its step and of later ones.
                start = SessionLog(status=SessionLog.START)
                self._writer.add_event(Event(wall_time=time.time(), step=resumed_at + 1, session_log=start))
                self._writer.flush()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Write the scalars of a policy step."""
        # One event for all scalars: each event wakes the writer's thread, which costs more than the write.
        event = self._make_event(wall_time=time.time(), step=step)
        for key, value in values.items():
            event.summary.value.add(tag=key, simple_value=value)
        with _naming(self._path):
            self._writer.add_event(event)
            self._writer.flush()

    def add_new_videos(self, step: int) -> None:
        """Write the animated pictures of recorded episodes that are new, as images of a policy step."""
        for picture in self._find_videos():
            if picture not in self._shown:
                self._shown.add(picture)
                event = self._make_event(wall_time=time.time(), step=step)
                content = picture[0].read_bytes()
                width, height = (int.from_bytes(content[at : at + 2], "little") for at in (6, 8))  # GIF's header
                image = event.summary.value.add(tag="Videos/episode").image
                image.width, image.height, image.colorspace, image.encoded_image_string = width, height, 3, content
                with _naming(self._path):
                    self._writer.add_event(event)
                    self._writer.flush()

    def _find_videos(self) -> list[tuple[Path, int]]:
        """Return the animated pictures and when they were written, the oldest first."""
        found = [(path, path.stat().st_mtime_ns) for path in self._videos.glob("*.gif")]
        return sorted(found, key=lambda picture: picture[1])

    def close(self) -> None:
        """Close the file."""
        with _naming(self._path):
            self._writer.close()


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the file name to an OSError, because the errors of a write contain none."""
    try:
        yield
    except OSError as error:
        file = os.fsdecode(error.filename or path)
        raise OSError(error.errno, error.strerror or str(error), file) from error


def _plain(value: Any) -> Any:
    """Return a value that JSON can represent: Python numbers, None for non-finite numbers, and lists of such."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, list):
        return [_plain(part) for part in value]
    number = float(value)
    return number if math.isfinite(number) else None


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


class _Display(Protocol):
    """Protocol of the displays for progress and messages."""

    interval: float

    def show(self, progress: Progress, speed: Speedometer) -> None:
        """Show the progress."""

    def write(self, text: str, to_stderr: bool) -> None:
        """Show a message."""

    def close(self) -> None:
        """End the display."""


class _PlainLines:
    """Plain lines of text, for files, pipes and job logs."""

    def __init__(self, stream: TextIO, interval: float) -> None:
        """Store the stream and the interval between lines."""
        self.interval = interval
        self._stream = stream

    def show(self, progress: Progress, speed: Speedometer) -> None:
        """Print the progress as a line."""
        print(describe(progress, speed), file=self._stream, flush=True)

    def write(self, text: str, to_stderr: bool) -> None:
        """Print a message as a line."""
        print(text, file=sys.stderr if to_stderr else self._stream, flush=True)

    def close(self) -> None:
        """Do nothing."""


class _LiveLine:
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
        from rich.text import Text

        line = Text(describe(progress, speed, self._console.width), no_wrap=True, overflow="crop")
        self._live.update(line)
        self._live.start()
        self._live.refresh()

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


def _is_terminal(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that can update a line, independently of FORCE_COLOR."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def describe(progress: Progress, speed: Speedometer, width: int | None = None) -> str:
    """Format the progress as one line of at most `width` columns, shortened if necessary."""
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


def _return(value: float | None) -> str:
    """Format a mean return."""
    if value is None:
        return "-"
    return _short(value) if abs(value) >= 100_000 else f"{value:.2f}" if abs(value) < 1000 else f"{value:.0f}"


def _short(number: float) -> str:
    """Format a number with three digits and a unit, as in 12.3k."""
    for unit in ("", "k", "M", "G"):
        if abs(number) < 999.5:  # above, three digits would round to 1e+03
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"
