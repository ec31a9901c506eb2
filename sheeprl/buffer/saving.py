"""Writes a storage into a folder and reads it back: in chunks with checksums, and only what has changed.

A chunk that is as it was when the storage was saved last is not written again: its file in the new folder is a hard
link to the one in the old. Every folder is whole by itself, so that any of them can be removed, moved or copied.
`buffer.json`, written last, says what there is.
"""

from __future__ import annotations

import errno
import json
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

Chunk = dict[str, Any]
"""Of a chunk of an array: the name of its file, how many bytes it has, and their checksum."""

MANIFEST = "buffer.json"
FORMAT = 1


class DamagedSaveError(ValueError):
    """A file of a saved buffer is torn, altered or missing."""


class Saver:
    """Saves and loads one storage, time after time.

    Args:
        storage: what is saved or loaded.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._last: tuple[_OpenFolder, dict[tuple[str, int], Chunk]] | None = None  # by array and number

    def save(self, folder: Path, state: dict[str, Any]) -> int:
        """Write everything into a folder, which is made.

        Args:
            folder: must not be there yet.
            state: plain values to keep with the rows.

        Returns:
            Bytes written; chunks that were linked don't count.

        Raises:
            NoRoomError: the disk is full. The folder is gone then.
            FileExistsError: the folder is there already.
        """
        folder.mkdir(parents=True)
        try:
            return self._save(folder, state)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoRoomError(errno.ENOSPC, f"the buffer can't be saved in {folder}: the disk is full") from error
            raise

    def _save(self, folder: Path, state: dict[str, Any]) -> int:
        arrays, chunks, written = [], {}, 0
        for number, (name, values) in enumerate(self.storage.arrays().items()):
            described: dict[str, Any] = {
                "name": name,
                "shape": list(values.shape),
                "dtype": np.lib.format.dtype_to_descr(values.dtype),
                "chunks": [],
            }
            for file, chunk, part in self._chunks(number, name, values):
                if (known := self._linked(folder / file, name, chunk, part)) is None:
                    known = _write(folder / file, part)
                    written += part.nbytes
                chunks[name, chunk] = known
                described["chunks"].append(known)
            arrays.append(described)
        body = {"format": FORMAT, "book": self.storage.book(), "state": state, "arrays": arrays}
        _write_manifest(folder, body)
        self._last = _OpenFolder(folder), chunks
        self._mark_saved()
        return written

    def load(self, folder: Path) -> dict[str, Any]:
        """Fill the storage with what was saved; the state that was saved with it.

        Raises:
            DamagedSaveError: a file isn't as it was written. The storage is of no use then.
            ValueError: the storage is of another size or of other rows.
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
        rows = len(values) if name.startswith("tail ") else chunk_rows(values)
        for chunk in range(-(-len(values) // max(1, rows))):
            yield f"{number:02d}_{chunk:05d}.bin", chunk, values[chunk * rows : (chunk + 1) * rows]

    def _linked(self, path: Path, name: str, chunk: int, part: Array) -> Chunk | None:
        """Have at `path` the file that was saved last, if it still says what the chunk does; what is known of it."""
        if self._last is None or name.startswith("tail ") or self.storage.changes.changed(name, chunk):
            return None
        last, chunks = self._last
        known = chunks.get((name, chunk))
        if known is None or known["bytes"] != part.nbytes:
            return None
        try:
            if os.stat(known["file"], dir_fd=last.descriptor).st_size != part.nbytes:
                return None
            os.link(known["file"], path, src_dir_fd=last.descriptor)
        except OSError:  # it was removed, or this file system knows no links
            return None
        return {**known, "file": path.name}


class _OpenFolder:
    """A folder that is found again wherever it is moved to, and never mistaken for another one of its name."""

    def __init__(self, folder: Path) -> None:
        self.descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        weakref.finalize(self, os.close, self.descriptor)


def _read_array(folder: Path, described: dict[str, Any], target: Array) -> None:
    begin = 0
    for chunk in described["chunks"]:
        rows = chunk["bytes"] // max(1, target[:1].nbytes)
        _read(folder / chunk["file"], chunk, target[begin : begin + rows])
        begin += rows


def _write(path: Path, part: Array) -> Chunk:
    data = np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return {"file": path.name, "bytes": part.nbytes, "crc32": zlib.crc32(data)}


def _read(path: Path, chunk: Chunk, target: Array) -> None:
    data = np.fromfile(path, np.uint8)
    if len(data) != chunk["bytes"]:
        raise DamagedSaveError(f"{path}: is damaged: {len(data)} bytes, {chunk['bytes']} were written")
    if zlib.crc32(data.data) != chunk["crc32"]:
        raise DamagedSaveError(f"{path}: is damaged: its checksum differs")
    target[:] = data.view(target.dtype).reshape(target.shape)


def _write_manifest(folder: Path, body: dict[str, Any]) -> None:
    text = json.dumps(body)
    partial = folder / f"{MANIFEST}.part"
    with partial.open("w") as file:
        file.write(json.dumps({"crc32": zlib.crc32(text.encode()), "body": text}))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / MANIFEST)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a saved buffer says of itself.

    Raises:
        DamagedSaveError: it can't be read.
    """
    path = folder / MANIFEST
    try:
        outer = json.loads(path.read_text())
        if zlib.crc32(outer["body"].encode()) != outer["crc32"]:
            raise ValueError("its checksum differs")
        body: dict[str, Any] = json.loads(outer["body"])
    except FileNotFoundError as error:
        raise DamagedSaveError(f"{path}: is missing") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedSaveError(f"{path}: is damaged: {error}") from error
    if body["format"] != FORMAT:
        raise DamagedSaveError(f"{path}: is of format {body['format']}, this version reads {FORMAT}")
    return body
