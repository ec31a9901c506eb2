"""Files of a run's metrics: `metrics.jsonl` and TensorBoard events."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from sheeprl.utils.files import write_atomically


class JsonLines:
    """File with one JSON object per line, each on disk when `append` returns.

    Opening the file removes an incomplete last line of a killed writer.
    """

    def __init__(self, path: Path) -> None:
        """Open the file and remove an incomplete last line."""
        self._file = _AppendedFile(path)
        with _naming(path):
            self._end_last_line()

    def append(self, values: Mapping[str, Any]) -> None:
        """Append an object; a number that isn't finite becomes null."""
        line = json.dumps({key: _plain(value) for key, value in values.items()}, allow_nan=False) + "\n"
        self._file.append(line.encode())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _end_last_line(self) -> None:
        """Remove an incomplete last line, or add its missing line break."""
        path = self._file.path
        if not path.stat().st_size:
            return
        content = path.read_bytes()
        tail = content.rpartition(b"\n")[2]
        try:
            json.loads(tail or b"{}")
        except ValueError:
            self._file.truncate(len(content) - len(tail))
        else:
            self._file.append(b"\n" if tail else b"")


class EventFile:
    """File of TensorBoard events, each on disk when `append` returns.

    TensorBoard's own writer takes half a second to import and writes from a thread.

    Args:
        folder: folder of the file, whose name is new.
    """

    def __init__(self, folder: Path) -> None:
        """Open the file and write its version."""
        from tensorboard.compat.proto.event_pb2 import Event

        now = time.time()
        name = f"events.out.tfevents.{now:.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = _AppendedFile(folder / name)
        self.append(Event(wall_time=now, file_version="brain.Event:2"))

    def append(self, event: Any) -> None:
        """Append an event as a record: its length and its bytes, each followed by a checksum."""
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        self._file.append(length + _checksum(length) + data + _checksum(data))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _AppendedFile:
    """File to which whole records are appended."""

    def __init__(self, path: Path) -> None:
        """Open the file."""
        self.path = path
        with _naming(path):
            self._file = path.open("ab", buffering=0)  # unbuffered: closing doesn't repeat a failed write

    def append(self, data: bytes) -> None:
        """Write a record, or nothing if that fails."""
        with _naming(self.path):
            size = os.fstat(self._file.fileno()).st_size
            try:
                while data:  # a full disk first accepts a part, then raises
                    data = data[self._file.write(data) :]
            except OSError:
                with contextlib.suppress(OSError):
                    self._file.truncate(size)
                raise

    def truncate(self, size: int) -> None:
        """Shorten the file."""
        self._file.truncate(size)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@cache
def _crc_table() -> list[int]:
    """Return the CRC-32C (Castagnoli) of each byte."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


def _checksum(data: bytes) -> bytes:
    """Return the masked CRC-32C of a part of a record, as TensorBoard reads it."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


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


class Scalars:
    """TensorBoard scalars, on disk when `add` returns."""

    def __init__(self, folder: Path, resumed_at: int | None) -> None:
        """Open an event file in the folder."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self._videos = folder / "videos"
        self._shown = set(self._find_videos())
        self._make_event = Event
        self._file = EventFile(folder)
        if resumed_at is not None:
            # At this event TensorBoard drops the scalars of its step and of later ones.
            start = SessionLog(status=SessionLog.START)
            self._file.append(Event(wall_time=time.time(), step=resumed_at + 1, session_log=start))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Write the scalars of a policy step."""
        event = self._make_event(wall_time=time.time(), step=step)
        for key, value in values.items():
            event.summary.value.add(tag=key, simple_value=value)
        self._file.append(event)

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
                self._file.append(event)

    def _find_videos(self) -> list[tuple[Path, int]]:
        """Return the animated pictures and when they were written, the oldest first."""
        found = [(path, path.stat().st_mtime_ns) for path in self._videos.glob("*.gif")]
        return sorted(found, key=lambda picture: picture[1])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


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
