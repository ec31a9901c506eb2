"""Save a storage and load it: in chunks with checksums, and only what changed since the last save.

`sheeprl.buffer.places` stores the chunks: as files of a folder, or as objects at a URL. An unchanged chunk is shared
with the last save. The index, written last, describes all chunks.
"""

from __future__ import annotations

import errno
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from sheeprl.buffer.dirty import chunk_rows
from sheeprl.buffer.memmap import Array, NoRoomError, dtype_of
from sheeprl.buffer.places import MANIFEST, Bytes, Chunk, DamagedSaveError, Folder, Place
from sheeprl.buffer.storage import Storage
from sheeprl.utils.files import decode_checksummed, encode_checksummed

__all__ = ["MANIFEST", "DamagedSaveError", "Saver", "read_index", "read_index_bytes"]

FORMAT = 1


class Saver:
    """Saves and loads one storage repeatedly.

    Args:
        storage: the storage.
    """

    def __init__(self, storage: Storage) -> None:
        """Start without a save; the first one writes all chunks."""
        self.storage = storage
        # Place of the last save, and its chunks by array and number.
        self._last: tuple[Place, dict[tuple[str, int], Chunk]] | None = None

    def save(self, place: Place, state: dict[str, Any]) -> int:
        """Save the storage to a new place.

        Args:
            place: the place.
            state: additional values that JSON can represent.

        Returns:
            Bytes written, without shared chunks.

        Raises:
            NoRoomError: the disk is full. The folder is removed.
            FileExistsError: the folder exists already.
        """
        place.create()
        try:
            return self._save(place, state)
        except BaseException as error:
            place.discard()
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoRoomError(
                    errno.ENOSPC, f"the disk is full: saving the buffer to {place} failed; free disk space"
                ) from error
            raise

    def _save(self, place: Place, state: dict[str, Any]) -> int:
        """Store or share all chunks, then write the index. Return the bytes written."""
        last = self._last if self._last is not None and place.follows(self._last[0]) else None
        arrays, chunks, written = [], {}, 0
        for number, (name, values) in enumerate(self.storage.arrays().items()):
            described: dict[str, Any] = {
                "name": name,
                "shape": list(values.shape),
                "dtype": np.lib.format.dtype_to_descr(values.dtype),
                "chunks": [],
            }
            for file, chunk, part in self._chunks(number, name, values):
                is_same = last and not name.startswith("tail ") and not self.storage.changes.changed(name, chunk)
                before = last[1].get((name, chunk)) if last and is_same else None
                data = np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
                entry, size = place.put(file, data, before)
                written += size
                chunks[name, chunk] = entry
                described["chunks"].append(entry)
            arrays.append(described)
        body = {"format": FORMAT, "book": self.storage.metadata(), "state": state, "arrays": arrays}
        place.finish(encode_checksummed(body))
        self._last = place, chunks
        self._mark_saved()
        return written

    def load(self, place: Place) -> dict[str, Any]:
        """Load a saved shard into the storage and return the additional state.

        Raises:
            DamagedSaveError: a chunk is missing or altered. The storage is unusable afterwards.
            ValueError: the storage has another capacity or other rows.
        """
        body = read_index(place)
        arrays = {each["name"]: each for each in body["arrays"]}
        chunks = {(name, n): chunk for name, each in arrays.items() for n, chunk in enumerate(each["chunks"])}
        if missing := place.missing(list(chunks.values())):
            raise DamagedSaveError(f"{missing}: is missing")
        kinds = {name: (tuple(each["shape"]), dtype_of(each["dtype"])) for name, each in arrays.items()}
        for name, target in self.storage.restore(body["book"], kinds).items():
            _read_array(place, arrays[name]["chunks"], target)
        self.storage.restored()
        if isinstance(place, Folder):
            place.hold()
        self._last = place, chunks
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


def _read_array(place: Place, chunks: list[Chunk], target: Array) -> None:
    """Read all chunks of an array into `target`.

    Raises:
        DamagedSaveError: a chunk is damaged.
    """
    begin = 0
    for chunk, (path, data) in zip(chunks, place.read(chunks), strict=True):
        rows = chunk["bytes"] // max(1, target[:1].nbytes)
        _copy(path, data, chunk, target[begin : begin + rows])
        begin += rows


def _copy(path: str, data: Bytes, chunk: Chunk, target: Array) -> None:
    """Copy a chunk into `target`.

    Raises:
        DamagedSaveError: its size or its checksum differs.
    """
    if len(data) != chunk["bytes"]:
        raise DamagedSaveError(f"{path}: is damaged: {len(data)} bytes instead of {chunk['bytes']}")
    if zlib.crc32(data.data) != chunk["crc32"]:
        raise DamagedSaveError(f"{path}: is damaged: its checksum differs")
    target[:] = data.view(target.dtype).reshape(target.shape)


def read_index(place: Place) -> dict[str, Any]:
    """Return the index of a saved shard.

    Raises:
        DamagedSaveError: the index is missing, damaged or of another format.
    """
    return _parse(place.index(), str(place.path / MANIFEST if isinstance(place, Folder) else place))


def read_index_bytes(raw: bytes, where: str) -> list[Chunk]:
    """Return the chunks in the content of an index.

    Raises:
        DamagedSaveError: it is damaged.
    """
    return [chunk for array in _parse(raw, where)["arrays"] for chunk in array["chunks"]]


def _parse(raw: bytes, where: str) -> dict[str, Any]:
    """Return the body of an index."""
    try:
        body: dict[str, Any] = decode_checksummed(raw)
    except ValueError as error:
        raise DamagedSaveError(f"{where}: is damaged: {error}") from error
    if body["format"] != FORMAT:
        raise DamagedSaveError(f"{where}: has format {body['format']}, but this version reads format {FORMAT}")
    return body
