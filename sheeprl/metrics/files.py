"""Files of a run's metrics: `metrics.jsonl` and TensorBoard events."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sheeprl.utils.files import write_atomically

DREAM = re.compile(r"dream_step_(\d+)\.gif")  # of `sheeprl dream` on a checkpoint


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
    lines = complete_lines(path)
    ends = itertools.accumulate(len(line) for line in lines)
    keep_lines(
        path, lines, [end <= size or line.startswith(b'{"event"') for line, end in zip(lines, ends, strict=True)]
    )


def complete_lines(path: Path) -> list[bytes]:
    """Return the lines of a file, without an incomplete last one of a killed writer; empty without the file."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith(b"\n")]


def keep_lines(path: Path, lines: Sequence[bytes], retained: Sequence[bool]) -> None:
    """Move the other lines of a file to its file of undone lines, such as `metrics_undone.jsonl`."""
    undone = b"".join(line for line, keep in zip(lines, retained, strict=True) if not keep)
    if undone:
        with path.with_name(f"{path.stem}_undone.jsonl").open("ab") as file:
            file.write(undone)
        write_atomically(path, b"".join(line for line, keep in zip(lines, retained, strict=True) if keep), sync=False)


class Scalars:
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
        """Write new animated pictures as images: recorded episodes of this step, dreams of their checkpoint's."""
        for picture in self._find_videos():
            if picture not in self._shown:
                self._shown.add(picture)
                tag, at_step = "Videos/episode", step
                if match := DREAM.fullmatch(picture[0].name):
                    tag, at_step = "Videos/dream", int(match[1])
                event = self._make_event(wall_time=time.time(), step=at_step)
                content = picture[0].read_bytes()
                width, height = (int.from_bytes(content[at : at + 2], "little") for at in (6, 8))  # GIF's header
                image = event.summary.value.add(tag=tag).image
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
    """Return a value that JSON can represent: Python numbers, None for non-finite numbers, lists and mappings."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    number = float(value)
    return number if math.isfinite(number) else None
