"""Save a storage to a folder and load it: in chunks with checksums, and only what changed since the last save.

The file of an unchanged chunk is a hard link to its file in the last folder. Every folder is complete, so each can be
removed, moved or copied without the others. `buffer.json`, written last, describes all files.
"""

from __future__ import annotations

import errno
import os
import shutil
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sheeprl.buffer.dirty import chunk_rows
from sheeprl.buffer.memmap import Array, NoRoomError, dtype_of
from sheeprl.buffer.storage import Storage
from sheeprl.utils.files import decode_checksummed, encode_checksummed, write_atomically, write_synced

Chunk = dict[str, Any]
"""File name, size in bytes and checksum of a chunk of an array."""

MANIFEST = "buffer.json"
FORMAT = 1


class DamagedSaveError(ValueError):
    """Raised when a file of a saved buffer is truncated, altered or missing."""


class Saver:
    """Saves and loads one storage repeatedly.

    Args:
        storage: the storage.
    """

    def __init__(self, storage: Storage) -> None:
        """Start without a saved folder; the first save writes all chunks."""
        self.storage = storage
        self._last: tuple[_OpenFolder, dict[tuple[str, int], Chunk]] | None = (
            None  # folder, and chunks by array and number
        )

    def save(self, folder: Path, state: dict[str, Any]) -> int:
        """Save the storage to a new folder.

        Args:
            folder: folder to create.
            state: additional values that JSON can represent.

        Returns:
            Bytes written, without linked chunks.

        Raises:
            NoRoomError: the disk is full. The folder is removed.
            FileExistsError: the folder exists already.
        """
        folder.mkdir(parents=True)
        try:
            return self._save(folder, state)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoRoomError(
                    errno.ENOSPC, f"the disk is full: saving the buffer to {folder} failed; free disk space"
                ) from error
            raise

    def _save(self, folder: Path, state: dict[str, Any]) -> int:
        """Write or link all chunks, then write the manifest. Return the bytes written."""
        arrays, chunks, written = [], {}, 0
        for number, (name, values) in enumerate(self.storage.arrays().items()):
            described: dict[str, Any] = {
                "name": name,
                "shape": list(values.shape),
                "dtype": np.lib.format.dtype_to_descr(values.dtype),
                "chunks": [],
            }
            for file, chunk, part in self._chunks(number, name, values):
                if (entry := self._link_unchanged(folder / file, name, chunk, part)) is None:
                    entry = _write(folder / file, part)
                    written += part.nbytes
                chunks[name, chunk] = entry
                described["chunks"].append(entry)
            arrays.append(described)
        body = {"format": FORMAT, "book": self.storage.metadata(), "state": state, "arrays": arrays}
        write_atomically(folder / MANIFEST, encode_checksummed(body))
        self._last = _OpenFolder(folder), chunks
        self._mark_saved()
        return written

    def load(self, folder: Path) -> dict[str, Any]:
        """Load a folder into the storage and return the additional state.

        Raises:
            DamagedSaveError: a file is missing or altered. The storage is unusable afterwards.
            ValueError: the storage has another capacity or other rows.
        """
        body = read_manifest(folder)
        arrays = {each["name"]: each for each in body["arrays"]}
        chunks = {(name, n): chunk for name, each in arrays.items() for n, chunk in enumerate(each["chunks"])}
        if missing := [chunk["file"] for chunk in chunks.values() if not (folder / chunk["file"]).is_file()]:
            raise DamagedSaveError(f"{folder / missing[0]}: is missing")
        kinds = {name: (tuple(each["shape"]), dtype_of(each["dtype"])) for name, each in arrays.items()}
        for name, target in self.storage.restore(body["book"], kinds).items():
            _read_array(folder, arrays[name], target)
        self.storage.restored()
        self._last = _OpenFolder(folder), chunks
        self._mark_saved()
        state: dict[str, Any] = body["state"]
        return state

    def _mark_saved(self) -> None:
        """Mark every array with a row per slot as saved."""
        arrays = self.storage.arrays().items()
        self.storage.changes.saved({name: values for name, values in arrays if not name.startswith("tail ")})

    def _chunks(self, number: int, name: str, values: Array) -> Iterator[tuple[str, int, Array]]:
        """Yield file name, number and rows of each chunk of an array."""
        rows = len(values) if name.startswith("tail ") else chunk_rows(values)
        for chunk in range(-(-len(values) // max(1, rows))):
            yield f"{number:02d}_{chunk:05d}.bin", chunk, values[chunk * rows : (chunk + 1) * rows]

    def _link_unchanged(self, path: Path, name: str, chunk: int, part: Array) -> Chunk | None:
        """Link `path` to the chunk's file of the last save. Return None if the chunk changed or can't be linked."""
        if self._last is None or name.startswith("tail ") or self.storage.changes.changed(name, chunk):
            return None
        last, chunks = self._last
        entry = chunks.get((name, chunk))
        if entry is None or entry["bytes"] != part.nbytes:
            return None
        try:
            if os.stat(entry["file"], dir_fd=last.descriptor).st_size != part.nbytes:
                return None
            os.link(entry["file"], path, src_dir_fd=last.descriptor)
        except OSError:  # the file was removed, or the file system has no hard links
            return None
        return {**entry, "file": path.name}


class _OpenFolder:
    """A folder by descriptor, which stays valid when it is moved or when another folder takes its name."""

    def __init__(self, folder: Path) -> None:
        """Open the folder until this object is freed."""
        self.descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        weakref.finalize(self, os.close, self.descriptor)


def _read_array(folder: Path, described: dict[str, Any], target: Array) -> None:
    """Read all chunks of an array into `target`.

    Raises:
        DamagedSaveError: a chunk is damaged.
    """
    begin = 0
    for chunk in described["chunks"]:
        rows = chunk["bytes"] // max(1, target[:1].nbytes)
        _read(folder / chunk["file"], chunk, target[begin : begin + rows])
        begin += rows


def _write(path: Path, part: Array) -> Chunk:
    """Write a chunk to disk and return its description."""
    data = np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
    write_synced(path, data)
    return {"file": path.name, "bytes": part.nbytes, "crc32": zlib.crc32(data)}


def _read(path: Path, chunk: Chunk, target: Array) -> None:
    """Read a chunk into `target`.

    Raises:
        DamagedSaveError: its size or its checksum differs.
    """
    data = np.fromfile(path, np.uint8)
    if len(data) != chunk["bytes"]:
        raise DamagedSaveError(f"{path}: is damaged: {len(data)} bytes instead of {chunk['bytes']}")
    if zlib.crc32(data.data) != chunk["crc32"]:
        raise DamagedSaveError(f"{path}: is damaged: its checksum differs")
    target[:] = data.view(target.dtype).reshape(target.shape)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a saved buffer.

    Raises:
        DamagedSaveError: the manifest is missing, damaged or of another format.
    """
    path = folder / MANIFEST
    try:
        body: dict[str, Any] = decode_checksummed(path.read_bytes())
    except FileNotFoundError as error:
        raise DamagedSaveError(f"{path}: is missing") from error
    except (OSError, ValueError) as error:
        raise DamagedSaveError(f"{path}: is damaged: {error}") from error
    if body["format"] != FORMAT:
        raise DamagedSaveError(f"{path}: has format {body['format']}, but this version reads format {FORMAT}")
    return body
