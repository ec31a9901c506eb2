"""Places of saved shards: folders, or objects at a URL.

In folders, a saved replay is `<folder>/shard_<k>/`, and an unchanged chunk is a hard link to its file of the last save.

At a URL, a chunk is the object `objects/<digest of its content>`, which all saves share. A save writes the index of a
shard to `<pending>/shard_<k>.json`. The run's driver then names the indexes in the manifest of a checkpoint, a single
object, from whose URL every process can read the replay.
"""

from __future__ import annotations

import os
import shutil
import weakref
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sheeprl.utils.files import decode_checksummed, write_atomically, write_synced
from sheeprl.utils.objects import AT_ONCE, MissingObjectError, Objects, content_name

Bytes = npt.NDArray[np.uint8]
Chunk = dict[str, Any]
"""File or object name, size in bytes and checksum of a chunk of an array."""

MANIFEST = "buffer.json"
OBJECTS = "objects"  # folder of the objects that are named by their content


class DamagedSaveError(ValueError):
    """Raised when a file of a saved buffer is truncated, altered or missing."""


class Place(Protocol):
    """Place of one saved shard."""

    def create(self) -> None:
        """Begin a save.

        Raises:
            FileExistsError: the place holds a save already.
        """
        ...

    def put(self, file: str, data: memoryview, before: Chunk | None) -> tuple[Chunk, int]:
        """Store a chunk. Return its description and the bytes written.

        Args:
            file: name of the chunk, unique in this save.
            data: its content.
            before: description of the unchanged chunk in the last save; None if it may have changed.
        """
        ...

    def finish(self, index: bytes) -> None:
        """Complete the save with its index."""
        ...

    def discard(self) -> None:
        """Remove the remains of a failed save."""
        ...

    def follows(self, last: Place | None) -> bool:
        """Return True if unchanged chunks of another save can be shared."""
        ...

    def index(self) -> bytes:
        """Return the index of the saved shard.

        Raises:
            DamagedSaveError: it doesn't exist.
        """
        ...

    def missing(self, chunks: Sequence[Chunk]) -> str | None:
        """Return the path of a chunk that doesn't exist; None if all exist."""
        ...

    def read(self, chunks: Sequence[Chunk]) -> Iterator[tuple[str, Bytes]]:
        """Yield path and content of chunks, in order."""
        ...


class Folder:
    """A saved shard in a folder.

    Args:
        path: path of the folder.
    """

    def __init__(self, path: Path) -> None:
        """Store the path."""
        self.path = path
        self._last: Folder | None = None  # save whose unchanged chunks are linked
        self._opened: _OpenFolder | None = None

    def create(self) -> None:
        """Create the folder."""
        self.path.mkdir(parents=True)

    def put(self, file: str, data: memoryview, before: Chunk | None) -> tuple[Chunk, int]:
        """Link an unchanged chunk, or write it."""
        if before is not None and self._link(file, before, data.nbytes):
            return {**before, "file": file}, 0
        write_synced(self.path / file, data)
        return {"file": file, "bytes": data.nbytes, "crc32": zlib.crc32(data)}, data.nbytes

    def _link(self, file: str, before: Chunk, size: int) -> bool:
        """Link a chunk of the last save; return False if that is impossible."""
        if self._last is None or self._last._opened is None or before["bytes"] != size:
            return False
        last = self._last._opened.descriptor
        try:
            if os.stat(before["file"], dir_fd=last).st_size != size:
                return False
            os.link(before["file"], self.path / file, src_dir_fd=last)
        except OSError:  # the file was removed, or the file system has no hard links
            return False
        return True

    def finish(self, index: bytes) -> None:
        """Write the index, and hold the folder open for the next save."""
        write_atomically(self.path / MANIFEST, index)
        self.hold()

    def hold(self) -> None:
        """Hold the folder open, so that later saves can link its files after it is renamed."""
        self._opened, self._last = _OpenFolder(self.path), None

    def discard(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)

    def follows(self, last: Place | None) -> bool:
        """Link unchanged chunks to those of another folder."""
        self._last = last if isinstance(last, Folder) else None
        return self._last is not None

    def index(self) -> bytes:
        """Return the content of the index file."""
        path = self.path / MANIFEST
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise DamagedSaveError(f"{path}: is missing") from error
        except OSError as error:
            raise DamagedSaveError(f"{path}: is damaged: {error}") from error

    def missing(self, chunks: Sequence[Chunk]) -> str | None:
        """Return the path of a file that doesn't exist."""
        return next(
            (str(self.path / chunk["file"]) for chunk in chunks if not (self.path / chunk["file"]).is_file()), None
        )

    def read(self, chunks: Sequence[Chunk]) -> Iterator[tuple[str, Bytes]]:
        """Yield path and content of each file."""
        for chunk in chunks:
            yield str(self.path / chunk["file"]), np.fromfile(self.path / chunk["file"], np.uint8)

    def __str__(self) -> str:
        """Return the path."""
        return str(self.path)


class _OpenFolder:
    """A folder by descriptor, which stays valid when it is moved or when another folder takes its name."""

    def __init__(self, folder: Path) -> None:
        """Open the folder until this object is freed."""
        self.descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        weakref.finalize(self, os.close, self.descriptor)


class ObjectShard:
    """A saved shard as objects at a URL.

    Args:
        objects: objects of the run.
        name: name of the index object.
    """

    def __init__(self, objects: Objects, name: str) -> None:
        """Store the name."""
        self.objects, self.name = objects, name
        self._present: dict[str, tuple[int, float]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._uploads: list[Future[None]] = []

    def create(self) -> None:
        """List the objects that exist, which needn't be uploaded again."""
        self._present = self.objects.listing(OBJECTS)
        self._pool = ThreadPoolExecutor(AT_ONCE)

    def put(self, file: str, data: memoryview, before: Chunk | None) -> tuple[Chunk, int]:
        """Upload a chunk in the background, unless an object with its content exists."""
        if before is not None and self._exists(before["file"], data.nbytes):
            return before, 0
        entry: Chunk = {"file": content_name(data), "bytes": data.nbytes, "crc32": zlib.crc32(data)}
        if self._exists(entry["file"], data.nbytes):
            return entry, 0
        assert self._pool is not None
        self._present[entry["file"]] = data.nbytes, 0.0
        self._uploads.append(self._pool.submit(self.objects.write, f"{OBJECTS}/{entry['file']}", bytes(data)))
        if len(self._uploads) > 2 * AT_ONCE:  # each holds its chunk in memory
            self._uploads.pop(0).result()
        return entry, data.nbytes

    def _exists(self, name: str, size: int) -> bool:
        """Return True if an object of this size exists."""
        return self._present.get(name, (None, 0.0))[0] == size

    def finish(self, index: bytes) -> None:
        """Wait for the uploads, then write the index."""
        self._end_uploads()
        self.objects.write(self.name, index)

    def _end_uploads(self) -> None:
        """Wait for all uploads.

        Raises:
            StorageError: an upload failed.
        """
        uploads, pool, self._uploads, self._pool = self._uploads, self._pool, [], None
        try:
            for upload in uploads:
                upload.result()
        finally:
            if pool is not None:
                pool.shutdown(cancel_futures=True)

    def discard(self) -> None:
        """End the uploads; the driver collects objects that no checkpoint names."""
        pool, self._uploads, self._pool = self._pool, [], None
        if pool is not None:
            pool.shutdown(cancel_futures=True)

    def follows(self, last: Place | None) -> bool:
        """Share the unchanged objects of a save at the same URL."""
        return isinstance(last, ObjectShard) and last.objects.url == self.objects.url

    def index(self) -> bytes:
        """Return the index object."""
        try:
            return self.objects.read(self.name)
        except MissingObjectError as error:
            raise DamagedSaveError(f"{self}: is missing") from error

    def missing(self, chunks: Sequence[Chunk]) -> str | None:
        """Return the URL of an object that doesn't exist or has another size."""
        self._present = self.objects.listing(OBJECTS)
        lost = [chunk["file"] for chunk in chunks if not self._exists(chunk["file"], chunk["bytes"])]
        return f"{self.objects.url}/{OBJECTS}/{lost[0]}" if lost else None

    def read(self, chunks: Sequence[Chunk]) -> Iterator[tuple[str, Bytes]]:
        """Yield URL and content of each object."""
        names = [f"{OBJECTS}/{chunk['file']}" for chunk in chunks]
        for name, data in zip(names, self.objects.read_all(names), strict=True):
            yield f"{self.objects.url}/{name}", np.frombuffer(data, np.uint8)

    def __str__(self) -> str:
        """Return the URL of the index."""
        return f"{self.objects.url}/{self.name}"


def place_of(folder: Path | str, shard: int) -> Place:
    """Return the place of a shard in a saved replay, or of a new save.

    Args:
        folder: folder of the replay; or the URL of a checkpoint's manifest, to read; or the URL of a folder for the
            indexes of a new save.
        shard: number of the shard.
    """
    if "://" not in str(folder):
        return Folder(Path(folder) / f"shard_{shard}")
    root, kind, name = _split(str(folder))
    objects = Objects(root)
    if not name.endswith(".json"):
        return ObjectShard(objects, f"{kind}/{name}/shard_{shard}.json")
    files = read_object_manifest(objects, f"{kind}/{name}")["files"]
    index = files.get(f"buffer/shard_{shard}/{MANIFEST}")
    if index is None:
        raise DamagedSaveError(f"{folder}: contains no shard {shard}")
    return ObjectShard(objects, f"{OBJECTS}/{index['object']}")


def count_shards(folder: Path | str) -> int:
    """Return the number of shards of a saved replay."""
    if "://" not in str(folder):
        return len(list(Path(folder).glob("shard_*")))
    root, kind, name = _split(str(folder))
    files = read_object_manifest(Objects(root), f"{kind}/{name}")["files"]
    return sum(file.startswith("buffer/shard_") for file in files)


def read_object_manifest(objects: Objects, name: str) -> dict[str, Any]:
    """Return the manifest of a checkpoint at a URL: its description and its files, each an object.

    Raises:
        DamagedSaveError: it is missing or damaged.
    """
    try:
        body: dict[str, Any] = decode_checksummed(objects.read(name))
        if not isinstance(body["files"], dict):
            raise ValueError("isn't a manifest")
        return body
    except MissingObjectError as error:
        raise DamagedSaveError(f"{objects.url}/{name}: is missing") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedSaveError(f"{objects.url}/{name}: is damaged: {error}") from error


def _split(url: str) -> tuple[str, str, str]:
    """Return the URL of the run, the folder below it and the name in the folder."""
    rest, _, name = url.rpartition("/")
    root, _, kind = rest.rpartition("/")
    return root, kind, name
