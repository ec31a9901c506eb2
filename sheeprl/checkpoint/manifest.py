"""The manifest of a checkpoint: `manifest.json` lists the size and checksum of every file and is written last.

A folder without a manifest isn't a checkpoint. In every format the manifest's first line is the checksum of all other
lines, so a torn or altered manifest is detected. The chunks of a saved buffer have their checksums in `buffer.json`.
The manifest records only their size: most chunks are links to files of an earlier checkpoint, and reading gigabytes
again would add no information.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from sheeprl.utils.files import decode_checksummed, size_and_checksum, sync_file, sync_folder, write_atomically
from sheeprl.version import __version__

MANIFEST = "manifest.json"
BUFFER = "buffer.json"  # sheeprl.buffer.saving writes it last into the folder of a saved buffer
FORMAT = 1


class DamagedCheckpointError(ValueError):
    """Raised when a file of a checkpoint is torn, altered or missing.

    Args:
        file: the path or URL of the file.
        problem: its defect, for the message.
    """

    def __init__(self, file: Path | str, problem: str) -> None:
        """Store file and defect."""
        super().__init__(file, problem)
        self.file, self.problem = file, problem

    def __str__(self) -> str:
        """Return the file and its defect."""
        return f"{self.file}: {self.problem}"


@dataclass(frozen=True)
class FileEntry:
    """Size and checksum of a file at the time of writing; None as checksum for a chunk of a saved buffer."""

    bytes: int
    crc32: int | None


@dataclass(frozen=True)
class Chunk:
    """Part of an array of a saved buffer, as `buffer.json` lists it."""

    array: str
    bytes: int
    crc32: int


@dataclass(frozen=True)
class Manifest:
    """Content of a manifest; file names are relative to the checkpoint, with slashes."""

    format: int
    about: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, FileEntry]


def is_complete(folder: Path) -> bool:
    """Return True if a folder has a manifest; its files may still be damaged (see `verify`)."""
    return (folder / MANIFEST).is_file()


def write(folder: Path, about: dict[str, Any]) -> Manifest:
    """Sync all files of a folder to the disk, then write the manifest that makes the folder a checkpoint.

    Args:
        folder: the folder with all files except the manifest.
        about: values that JSON can represent.

    Raises:
        DamagedCheckpointError: a buffer in the folder is incomplete.
        TypeError: JSON can't represent `about`.
        OSError: a file can't be read, or the manifest can't be written.
    """
    about = json.loads(json.dumps(about))
    names = _files_below(folder)
    chunks = chunks_of(names, lambda name: (folder / name).read_bytes(), folder)
    files = {name: _make_entry(folder / name, name in chunks) for name in names}
    _check_sizes(folder, files, chunks)
    for parent in {(folder / name).parent for name in names}:
        sync_folder(parent)
    manifest = Manifest(FORMAT, about, versions(), files)
    write_atomically(folder / MANIFEST, _render(manifest))
    return manifest


def remove(folder: Path) -> None:
    """Remove a checkpoint, its manifest first, so that no command reads a partly removed one.

    Raises:
        OSError: it can't be removed; without a manifest it is no checkpoint any longer.
    """
    (folder / MANIFEST).unlink()
    shutil.rmtree(folder)


def read(folder: Path) -> Manifest:
    """Return the manifest of a checkpoint; `verify` also checks the files.

    Raises:
        FileNotFoundError: the folder has no manifest and isn't a checkpoint.
        DamagedCheckpointError: the manifest is damaged or has a newer format.
    """
    path = folder / MANIFEST
    try:
        return parse(path.read_bytes(), path)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "not a complete checkpoint, this file is missing", str(path)) from None
    except OSError as error:
        raise DamagedCheckpointError(path, f"can't be read: {error.strerror}") from error


def verify(folder: Path) -> Manifest:
    """Read all files of a checkpoint and compare their sizes and checksums with the manifest.

    Files that the manifest doesn't list are ignored.

    Raises:
        FileNotFoundError: the folder has no manifest and isn't a checkpoint.
        DamagedCheckpointError: a file is missing or altered.
    """
    manifest = read(folder)
    for name, entry in manifest.files.items():
        _verify_file(folder / name, entry)
    chunks = chunks_of(manifest.files, lambda name: (folder / name).read_bytes(), folder)
    _check_sizes(folder, manifest.files, chunks)
    for name, chunk in chunks.items():
        _verify_file(folder / name, FileEntry(chunk.bytes, chunk.crc32))
    for name in sorted(name for name, entry in manifest.files.items() if entry.crc32 is None and name not in chunks):
        raise DamagedCheckpointError(folder / name, "has no checksum, neither in the manifest nor in a buffer.json")
    return manifest


def parse(raw: bytes, where: Path | str) -> Manifest:
    """Parse the content of a manifest file.

    Args:
        raw: the content.
        where: the file, for errors.

    Raises:
        DamagedCheckpointError: the content is damaged or has a newer format.
    """
    first, _, rest = raw.partition(b"\n")
    if first != _first_line(rest):
        raise DamagedCheckpointError(where, "is damaged: its checksum differs")
    try:
        body = json.loads(raw)
        if body["format"] > FORMAT:
            found = f"has format {body['format']}; SheepRL {__version__} reads formats up to {FORMAT}"
            raise DamagedCheckpointError(where, f"{found}; use the SheepRL version that wrote it, or a newer one")
        if body["format"] != FORMAT:
            raise ValueError(f"format {body['format']} doesn't exist")
        files = {inside(name): _entry(**each) for name, each in body["files"].items()}
        return Manifest(body["format"], dict(body["about"]), dict(body["versions"]), files)
    except DamagedCheckpointError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedCheckpointError(where, f"isn't a manifest: {error}") from error


def chunks_of(names: Iterable[str], read: Callable[[str], bytes], where: Path | str) -> dict[str, Chunk]:
    """Return the chunks of all saved buffers in a checkpoint, by file name.

    No other function of this package knows the layout of `buffer.json`.

    Args:
        names: the files of the checkpoint, relative to its folder.
        read: returns the content of a file.
        where: the checkpoint, for errors.

    Raises:
        DamagedCheckpointError: a `buffer.json` is damaged.
    """
    chunks = {}
    for name in names:
        path = PurePosixPath(name)
        if path.name != BUFFER:
            continue
        try:
            for array in decode_checksummed(read(name))["arrays"]:
                for each in array["chunks"]:
                    chunks[inside(f"{path.parent / each['file']}")] = Chunk(
                        str(array["name"]), int(each["bytes"]), int(each["crc32"])
                    )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedCheckpointError(f"{where}/{name}", f"is damaged: {error}") from error
    return chunks


def _files_below(folder: Path) -> list[str]:
    """Return all files below a folder except its manifest, sorted, relative to the folder."""
    own = {folder / MANIFEST, folder / f".{MANIFEST}.part"}
    found = (Path(parent) / file for parent, _, files in os.walk(folder, onerror=_raise) for file in files)
    return sorted(path.relative_to(folder).as_posix() for path in found if path not in own)


def _raise(error: OSError) -> None:
    """Raise an error that `os.walk` would ignore."""
    raise error


def _make_entry(path: Path, is_chunk: bool) -> FileEntry:
    """Return the entry of a file, and sync the file unless it is a chunk, which the buffer has synced."""
    if is_chunk:
        return FileEntry(path.stat().st_size, None)
    size, crc32 = size_and_checksum(path)
    sync_file(path)
    return FileEntry(size, crc32)


def _check_sizes(folder: Path, files: dict[str, FileEntry], chunks: dict[str, Chunk]) -> None:
    """Check that the files include every listed chunk, in its size.

    Raises:
        DamagedCheckpointError: a chunk is missing or has another size.
    """
    for name, chunk in chunks.items():
        if name not in files:
            raise DamagedCheckpointError(folder / name, "is missing, but buffer.json lists it")
        if files[name].bytes != chunk.bytes:
            problem = f"is damaged: {files[name].bytes} bytes instead of {chunk.bytes}"
            raise DamagedCheckpointError(folder / name, problem)


def _verify_file(path: Path, entry: FileEntry) -> None:
    """Compare a file with its entry.

    Raises:
        DamagedCheckpointError: the file is missing, unreadable or altered.
    """
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            raise DamagedCheckpointError(path, f"is damaged: {size} bytes instead of {entry.bytes}")
        if entry.crc32 is not None and size_and_checksum(path) != (entry.bytes, entry.crc32):
            raise DamagedCheckpointError(path, "is damaged: its checksum differs")
    except FileNotFoundError as error:
        raise DamagedCheckpointError(path, "is missing") from error
    except OSError as error:
        raise DamagedCheckpointError(path, f"can't be read: {error.strerror}") from error


def _render(manifest: Manifest) -> bytes:
    """Return the content of the manifest file: JSON whose first line is the checksum of the other lines."""
    rest = json.dumps(asdict(manifest), indent=1).removeprefix("{\n").encode() + b"\n"
    return _first_line(rest) + b"\n" + rest


def _first_line(rest: bytes) -> bytes:
    """Return the first line of a manifest file, given its other lines."""
    return b'{"crc32": "%08x",' % zlib.crc32(rest)


def inside(name: str) -> str:
    """Return a file name, if it is inside the checkpoint; raise a ValueError otherwise."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or path.as_posix() != name or name in ("", ".") or "\0" in name:
        raise ValueError(f"{name!r} isn't a file inside a checkpoint")
    return name


def _entry(bytes: int, crc32: int | None) -> FileEntry:
    """Return an entry of validated numbers; raise a ValueError otherwise."""
    for number in (bytes, crc32 or 0):
        if type(number) is not int or number < 0:
            raise ValueError(f"{number!r} is neither a size nor a checksum")
    return FileEntry(bytes, crc32)


def versions() -> dict[str, str]:
    """Return the versions of SheepRL, Python and the main packages, without importing the packages."""
    versions = {"sheeprl": __version__, "python": ".".join(map(str, sys.version_info[:3]))}
    for package in ("torch", "numpy", "ray"):
        with suppress(metadata.PackageNotFoundError):  # coupled mode needs no Ray
            versions[package] = metadata.version(package)
    return versions
