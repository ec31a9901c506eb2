"""Standard output and error that a run outlives: a closed pipe or terminal doesn't raise in the middle of a run."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

NAMES = ("stdout", "stderr")
CLOSED = (errno.EPIPE, errno.EIO)  # the reader of a pipe has ended; a terminal was closed


class _File(io.FileIO):
    """File of a standard stream that drops what it can't write.

    Args:
        descriptor: descriptor of the stream; it stays open.
    """

    def __init__(self, descriptor: int) -> None:
        """Open the descriptor for writing."""
        super().__init__(descriptor, "w", closefd=False)
        self.is_lost = False

    def write(self, data: ReadableBuffer, /) -> int:
        """Write data and return the number of bytes; after a failure, pretend that all bytes were written."""
        try:
            return super().write(data)
        except OSError as error:  # such as a full disk, which may recover
            self.is_lost = True
            if error.errno in CLOSED:
                _divert(self.fileno())  # also for C code and child processes, which the failure would end
            return memoryview(data).nbytes


class _Stream(io.TextIOWrapper):
    """A standard stream that drops what it can't write.

    Args:
        stream: the stream that it replaces, with its encoding and buffering.
    """

    def __init__(self, stream: io.TextIOWrapper) -> None:
        """Write to the descriptor of the stream."""
        self._file = _File(stream.fileno())
        is_buffered = not isinstance(stream.buffer, io.RawIOBase)
        super().__init__(
            io.BufferedWriter(self._file) if is_buffered else self._file,
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )

    @property
    def is_lost(self) -> bool:
        """Return True once text was dropped."""
        return self._file.is_lost


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Drop output that can't be written within the block, for example after `sheeprl train ... | head`.

    Streams that a program has replaced itself stay as they are.
    """
    _open_missing()
    replaced: dict[str, tuple[Any, Any]] = {}
    for name in NAMES:
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError, ValueError):  # not a file, or closed
                stream.flush()
                replaced[name] = stream, _Stream(stream)
                setattr(sys, name, replaced[name][1])
    try:
        yield
    finally:
        for name, (before, lasting) in replaced.items():
            with contextlib.suppress(ValueError):  # the program has closed it
                lasting.flush()
            if getattr(sys, name) is lasting:
                setattr(sys, name, before)


def lost_streams() -> list[str]:
    """Return the names of the standard streams whose text was dropped."""
    return [name for name in NAMES if getattr(getattr(sys, name), "is_lost", False)]


def _open_missing() -> None:
    """Open closed standard descriptors on the null device, else the next file would receive the output."""
    for descriptor in range(3):
        if not _is_open(descriptor):
            _divert(descriptor)


def _is_open(descriptor: int) -> bool:
    """Return True if a descriptor is open."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _divert(descriptor: int) -> None:
    """Make a descriptor refer to the null device."""
    null = os.open(os.devnull, os.O_RDWR)
    if null == descriptor:
        os.set_inheritable(null, True)
    else:
        os.dup2(null, descriptor)
        os.close(null)


@contextlib.contextmanager
def without_native_output() -> Iterator[None]:
    """Drop what the process writes to its stderr within the block, such as the log lines of C++ code."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
