"""Where the arrays of a buffer lie: in this process's memory, or in files that are mapped into it."""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Spec = Mapping[str, "tuple[tuple[int, ...], np.dtype[Any]]"]
"""Shape and dtype by name."""
LAYOUT = "layout.json"


class NoRoomError(OSError):
    """Neither memory nor disk has room for what is to be stored."""

    def __str__(self) -> str:
        return str(self.strerror)


class Memory(Protocol):
    """Makes arrays."""

    def allocate(self, spec: Spec) -> dict[str, Array]:
        """Arrays of zeros, by name.

        Raises:
            NoRoomError: there isn't room for them.
        """
        ...

    def grow(self, name: str, array: Array, rows: int) -> Array:
        """The array with its first axis at least `rows` long, its content kept.

        Raises:
            NoRoomError: there isn't room for that.
        """
        ...

    def close(self) -> None:
        """Let somebody else have it."""
        ...


class Heap:
    """Memory of the process itself, taken only as it is written to."""

    def allocate(self, spec: Spec) -> dict[str, Array]:
        """Arrays by name; more than the machine has is refused, less may be lacking later."""
        needed = _bytes_of(spec)
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else needed
        try:
            if needed > there:
                raise MemoryError
            return {name: np.zeros(shape, dtype) for name, (shape, dtype) in spec.items()}
        except MemoryError as error:
            raise NoRoomError(
                errno.ENOMEM,
                f"the buffer needs {_size(needed)} of memory, this machine has {_size(there)}; give it less capacity "
                "or map it into memory from disk",
            ) from error

    def grow(self, name: str, array: Array, rows: int) -> Array:
        """A longer copy."""
        return np.concatenate([array, np.zeros((_more(array, rows), *array.shape[1:]), array.dtype)])

    def close(self) -> None:
        """Nobody else could have it."""


class Mapped:
    """Files in a folder, mapped into memory: they may be larger than it, and outlive the process.

    What was written before the process was killed is in the files, since the operating system keeps the pages; only a
    machine that goes down takes back what it hadn't written to disk yet.

    Args:
        folder: made if need be, and locked while this lives.
        attach: take over the arrays that an earlier process has left.

    Raises:
        FileExistsError: there are arrays, and they aren't to be attached.
        FileNotFoundError: there are none, and they are.
        BlockingIOError: another process uses the folder.
    """

    def __init__(self, folder: Path, attach: bool = False) -> None:
        self.folder = folder
        if attach and not has_buffer(folder):
            raise FileNotFoundError(f"{folder} holds no buffer to attach")
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(folder)
        try:
            if not attach and has_buffer(folder):
                raise FileExistsError(f"{folder} holds a buffer already; attach it, or give another folder")
            self._layout: dict[str, Any] = json.loads(self.layout_file.read_text()) if attach else {}
        except BaseException:
            self.close()  # who catches the error still holds this object by its traceback
            raise

    @property
    def layout_file(self) -> Path:
        """Says which arrays there are; written once they are."""
        return self.folder / LAYOUT

    def allocate(self, spec: Spec) -> dict[str, Array]:
        """Arrays over files whose room on the disk is taken now, so that writing to them can't fail."""
        needed, free = _bytes_of(spec), shutil.disk_usage(self.folder).free
        if needed > free:
            raise _no_disk(self.folder, needed, free)
        self._layout = {
            name: {"file": f"{number:02d}.bin", "shape": list(shape), "dtype": np.lib.format.dtype_to_descr(dtype)}
            for number, (name, (shape, dtype)) in enumerate(spec.items())
        }
        self._remove_files()  # what a process left that was killed right here
        try:
            for described in self._layout.values():
                self._take_room(described)
        except OSError as error:
            self._remove_files()
            raise _no_disk(self.folder, needed, free) from error
        self._write_layout()
        return self.attach()

    def _remove_files(self) -> None:
        for described in self._layout.values():
            (self.folder / described["file"]).unlink(missing_ok=True)

    def attach(self) -> dict[str, Array]:
        """The arrays that are there."""
        return {name: self._map(described) for name, described in self._layout.items()}

    def grow(self, name: str, array: Array, rows: int) -> Array:
        """The same file, longer, mapped anew."""
        described = self._layout[name]
        longer = {**described, "shape": [len(array) + _more(array, rows), *array.shape[1:]]}
        try:
            self._take_room(longer)
        except OSError as error:
            needed = _bytes_of({"": _shape_and_dtype(longer)})
            raise _no_disk(self.folder, needed, shutil.disk_usage(self.folder).free) from error
        self._layout[name] = described = longer
        self._write_layout()
        return self._map(described)

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.close()

    def _write_layout(self) -> None:
        partial = self.layout_file.with_suffix(".part")
        partial.write_text(json.dumps(self._layout))
        partial.replace(self.layout_file)

    def _take_room(self, described: dict[str, Any]) -> None:
        size = _bytes_of({"": _shape_and_dtype(described)})
        with (self.folder / described["file"]).open("ab") as file:
            if size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            elif size:
                file.truncate(size)

    def _map(self, described: dict[str, Any]) -> Array:
        shape, dtype = _shape_and_dtype(described)
        if not _bytes_of({"": (shape, dtype)}):
            return np.empty(shape, dtype)
        with (self.folder / described["file"]).open("r+b") as file:
            mapped = mmap.mmap(file.fileno(), _bytes_of({"": (shape, dtype)}))
        if hasattr(mmap, "MADV_RANDOM"):  # rows are sampled from anywhere: pages beside them are of no use
            mapped.madvise(mmap.MADV_RANDOM)
        return np.frombuffer(mapped, dtype, count=int(np.prod(shape))).reshape(shape)


def has_buffer(folder: Path) -> bool:
    """Whether a folder holds a buffer that can be attached."""
    return (folder / LAYOUT).is_file()


def capacity_of(folder: Path) -> int:
    """Rows that the buffer in a folder has room for; 0 if there is none."""
    if not has_buffer(folder):
        return 0
    layout = json.loads((folder / LAYOUT).read_text())
    return int(layout["index link"]["shape"][0])


def in_use(folder: Path) -> bool:
    """Whether a process has a buffer open in a folder."""
    try:
        _lock(folder).close()
    except BlockingIOError:
        return True
    return False


def _lock(folder: Path) -> IO[bytes]:
    file = (folder / "lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise BlockingIOError(f"{folder} is in use by another process") from error
    return file


def _shape_and_dtype(described: dict[str, Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    return tuple(described["shape"]), dtype_of(described["dtype"])


def dtype_of(described: Any) -> np.dtype[Any]:
    """The dtype that NumPy's `dtype_to_descr` described, after JSON has made lists of its tuples."""
    if isinstance(described, list):
        described = [tuple(field) for field in described]
    dtype: np.dtype[Any] = np.lib.format.descr_to_dtype(described)
    return dtype


def _bytes_of(spec: Spec) -> int:
    return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in spec.values())


def _more(array: Array, rows: int) -> int:
    """Rows to grow by: at least to twice the size, so that growing stays cheap."""
    return max(rows - len(array), len(array))


def _no_disk(folder: Path, needed: int, free: int) -> NoRoomError:
    return NoRoomError(
        errno.ENOSPC,
        f"the buffer needs {_size(needed)} in {folder}, where {_size(free)} are free; make room, give it less capacity "
        "or another folder",
    )


def _size(count: int) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000  # type: ignore[assignment]
    return f"{count:.4g} TB"
