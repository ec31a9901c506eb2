"""Memory of a buffer's arrays: this process's memory, or memory-mapped files."""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from sheeprl.utils.files import write_atomically

Array = npt.NDArray[Any]
Spec = Mapping[str, "tuple[tuple[int, ...], np.dtype[Any]]"]
"""Shape and dtype by name."""
LAYOUT = "layout.json"
BOOT = "boot"  # file with the host and the boot of the system that wrote the arrays
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class NoRoomError(OSError):
    """Raised when memory or disk has no room for the data."""

    def __str__(self) -> str:
        """Return the message without the error number."""
        return str(self.strerror)


class Memory(Protocol):
    """Allocator of arrays."""

    def allocate(self, spec: Spec) -> dict[str, Array]:
        """Return arrays of zeros by name.

        Raises:
            NoRoomError: there is no room for them.
        """
        ...

    def grow(self, name: str, array: Array, rows: int) -> Array:
        """Return the array with the same content and a first axis of at least `rows`.

        Raises:
            NoRoomError: there is no room for it.
        """
        ...

    def close(self) -> None:
        """Release the memory for use by another process."""
        ...


class InMemory:
    """Memory of the process itself. The operating system provides its pages on the first write."""

    def allocate(self, spec: Spec) -> dict[str, Array]:
        """Return arrays of zeros by name. Their pages may still run out when they are written.

        Raises:
            NoRoomError: the arrays are larger than the machine's memory.
        """
        needed = _bytes_of(spec)
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else needed
        try:
            if needed > total:
                raise MemoryError
            return {name: np.zeros(shape, dtype) for name, (shape, dtype) in spec.items()}
        except MemoryError as error:
            raise NoRoomError(
                errno.ENOMEM,
                f"the buffer needs {_format_bytes(needed)} of memory, but this machine has {_format_bytes(total)}; "
                "reduce buffer.size or map the buffer from disk with buffer.memmap=true",
            ) from error

    def grow(self, name: str, array: Array, rows: int) -> Array:
        """Return a longer copy."""
        return np.concatenate([array, np.zeros((_rows_to_add(array, rows), *array.shape[1:]), array.dtype)])

    def close(self) -> None:
        """Do nothing: no other process can use this memory."""


class MemoryMapped:
    """Memory-mapped files in a folder. They may be larger than the memory, and outlive the process.

    The files contain all writes of a killed process, because the operating system owns their pages. Only a crash of the
    machine loses the pages that were not on the disk yet.

    Args:
        folder: folder of the files; created if missing, and locked until `close`.
        attach: use the arrays that a previous process left.

    Raises:
        FileExistsError: the folder holds a buffer and `attach` is False.
        FileNotFoundError: the folder holds no buffer and `attach` is True.
        BlockingIOError: another process uses the folder.
    """

    def __init__(self, folder: Path, attach: bool = False) -> None:
        """Create or lock the folder."""
        self.folder = folder
        if attach and not has_buffer(folder):
            raise FileNotFoundError(f"{folder} holds no buffer to attach")
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(folder)
        try:
            if not attach and has_buffer(folder):
                raise FileExistsError(f"{folder} holds a buffer already; attach it or use another folder")
            self._layout: dict[str, Any] = json.loads(self.layout_file.read_text()) if attach else {}
        except BaseException:
            self.close()  # the error's traceback keeps this object alive
            raise

    @property
    def layout_file(self) -> Path:
        """Return the path of the file that describes the arrays. It is written after they are allocated."""
        return self.folder / LAYOUT

    def allocate(self, spec: Spec) -> dict[str, Array]:
        """Return arrays of zeros by name. Their disk space is reserved, so that writes to them can't fail.

        Raises:
            NoRoomError: the disk has no room for them.
        """
        needed, free = _bytes_of(spec), shutil.disk_usage(self.folder).free
        if needed > free:
            raise _no_disk(self.folder, needed, free)
        self._layout = {
            name: {"file": f"{number:02d}.bin", "shape": list(shape), "dtype": np.lib.format.dtype_to_descr(dtype)}
            for number, (name, (shape, dtype)) in enumerate(spec.items())
        }
        self._remove_files()  # left by a process that was killed between here and `_write_layout`
        try:
            for described in self._layout.values():
                self._reserve(described)
        except OSError as error:
            self._remove_files()
            raise _no_disk(self.folder, needed, free) from error
        write_atomically(self.folder / BOOT, this_boot().encode(), sync=False)
        self._write_layout()
        return self.attach()

    def _remove_files(self) -> None:
        """Remove the files of all arrays in the layout."""
        for described in self._layout.values():
            (self.folder / described["file"]).unlink(missing_ok=True)

    def attach(self) -> dict[str, Array]:
        """Return the existing arrays by name."""
        return {name: self._map(described) for name, described in self._layout.items()}

    def grow(self, name: str, array: Array, rows: int) -> Array:
        """Extend the file of the array and map it again.

        Raises:
            NoRoomError: the disk has no room for it.
        """
        described = self._layout[name]
        longer = {**described, "shape": [len(array) + _rows_to_add(array, rows), *array.shape[1:]]}
        try:
            self._reserve(longer)
        except OSError as error:
            needed = _bytes_of({"": _shape_and_dtype(longer)})
            raise _no_disk(self.folder, needed, shutil.disk_usage(self.folder).free) from error
        self._layout[name] = described = longer
        self._write_layout()
        return self._map(described)

    def close(self) -> None:
        """Unlock the folder."""
        self._lock.close()

    def _write_layout(self) -> None:
        """Replace the layout file atomically."""
        write_atomically(self.layout_file, json.dumps(self._layout).encode(), sync=False)

    def _reserve(self, described: dict[str, Any]) -> None:
        """Reserve the disk space of an array's file."""
        size = _bytes_of({"": _shape_and_dtype(described)})
        with (self.folder / described["file"]).open("ab") as file:
            if size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            elif size:
                file.truncate(size)

    def _map(self, described: dict[str, Any]) -> Array:
        """Return an array over its memory-mapped file."""
        shape, dtype = _shape_and_dtype(described)
        if not _bytes_of({"": (shape, dtype)}):
            return np.empty(shape, dtype)
        with (self.folder / described["file"]).open("r+b") as file:
            mapped = mmap.mmap(file.fileno(), _bytes_of({"": (shape, dtype)}))
        if hasattr(mmap, "MADV_RANDOM"):  # samples are random rows, so read-ahead would load useless pages
            mapped.madvise(mmap.MADV_RANDOM)
        return np.frombuffer(mapped, dtype, count=int(np.prod(shape))).reshape(shape)


def has_buffer(folder: Path) -> bool:
    """Return True if a folder holds a buffer to attach."""
    return (folder / LAYOUT).is_file()


def this_boot() -> str:
    """Return the name of this host and the id of its current boot."""
    boot = BOOT_ID.read_text(encoding="ascii").strip() if BOOT_ID.exists() else ""
    return f"{socket.gethostname()} {boot}"


def is_of_this_boot(folder: Path) -> bool:
    """Return True if the arrays in a folder were written on this host since its boot.

    The last pages that another boot wrote may not have reached the disk, so its rows may be torn.
    """
    path = folder / BOOT
    return path.is_file() and path.read_text(encoding="utf-8") == this_boot()


def remove_buffer(folder: Path) -> None:
    """Remove the files of a buffer, the layout first.

    Raises:
        BlockingIOError: another process uses the folder.
    """
    lock = _lock(folder)
    try:
        (folder / LAYOUT).unlink(missing_ok=True)
        for path in folder.iterdir():
            if path.suffix in (".bin", ".json"):
                path.unlink()
    finally:
        lock.close()


def capacity_of(folder: Path) -> int:
    """Return the capacity of the buffer in a folder in rows, 0 if there is none."""
    if not has_buffer(folder):
        return 0
    layout = json.loads((folder / LAYOUT).read_text())
    return int(layout["index link"]["shape"][0])


def in_use(folder: Path) -> bool:
    """Return True if a process uses the buffer in a folder."""
    try:
        _lock(folder).close()
    except BlockingIOError:
        return True
    return False


def _lock(folder: Path) -> IO[bytes]:
    """Return the locked lock file of a folder.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    file = (folder / "lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise BlockingIOError(f"{folder} is in use by another process") from error
    return file


def _shape_and_dtype(described: dict[str, Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype of an array in the layout."""
    return tuple(described["shape"]), dtype_of(described["dtype"])


def dtype_of(described: Any) -> np.dtype[Any]:
    """Return the dtype of a description by NumPy's `dtype_to_descr`, in which JSON made lists of tuples."""
    if isinstance(described, list):
        described = [tuple(field) for field in described]
    dtype: np.dtype[Any] = np.lib.format.descr_to_dtype(described)
    return dtype


def _bytes_of(spec: Spec) -> int:
    """Return the total size of arrays in bytes."""
    return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in spec.values())


def _rows_to_add(array: Array, rows: int) -> int:
    """Return the rows to grow by. The size at least doubles, so that growing takes amortized constant time."""
    return max(rows - len(array), len(array))


def _no_disk(folder: Path, needed: int, free: int) -> NoRoomError:
    """Return the error for a disk without room for `needed` bytes."""
    return NoRoomError(
        errno.ENOSPC,
        f"the buffer needs {_format_bytes(needed)} in {folder}, but only {_format_bytes(free)} are free; free disk "
        "space, reduce buffer.size or use another folder",
    )


def _format_bytes(count: int) -> str:
    """Return a number of bytes with a suitable unit."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000  # type: ignore[assignment]
    return f"{count:.4g} TB"
