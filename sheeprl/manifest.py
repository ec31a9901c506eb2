"""What a checkpoint's folder holds, with sizes and checksums: `manifest.json`, written last.

A folder without one isn't a checkpoint. Files of a saved buffer have checksums of their own, in its `buffer.json`, so
that a checkpoint with gigabytes of rows that haven't changed isn't read each time: the manifest has only their sizes.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FILE = "manifest.json"
FORMAT = 1
BUFFER = "buffer.json"
PACKAGES = ("sheeprl", "torch", "numpy", "gymnasium", "ray", "lightning", "tensordict")
PIECE = 2**20  # bytes that are read at a time


class DamagedCheckpointError(ValueError):
    """A file of a checkpoint is torn, altered or missing."""


@dataclass(frozen=True)
class FileEntry:
    """A file.

    Args:
        bytes: its size.
        crc32: its checksum; None where another file of the checkpoint has it.
    """

    bytes: int
    crc32: int | None


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is and holds.

    Args:
        format: of checkpoints.
        about: plain values: what it is of.
        versions: of what wrote it, by package.
        files: by path below its folder.
    """

    format: int
    about: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, FileEntry]


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint was written to its end."""
    return (folder / FILE).is_file()


def write(folder: Path, about: Mapping[str, Any]) -> Manifest:
    """Describe every file below a folder, which makes it a checkpoint.

    Raises:
        OSError: the manifest can't be written.
    """
    files = {path.relative_to(folder).as_posix(): _describe(path) for path in _files(folder)}
    described = Manifest(FORMAT, dict(about), _versions(), files)
    body = json.dumps(asdict(described), indent=1)
    partial = folder / f".{FILE}.part"
    with partial.open("w", encoding="utf-8") as file:
        json.dump({"crc32": zlib.crc32(body.encode()), "body": json.loads(body)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / FILE)
    sync_folder(folder)
    return described


def read(folder: Path) -> Manifest:
    """The manifest of a checkpoint.

    Raises:
        DamagedCheckpointError: it isn't as it was written, or is of a newer format.
    """
    path = folder / FILE
    try:
        outer = json.loads(path.read_text(encoding="utf-8"))
        body = outer["body"]
        if zlib.crc32(json.dumps(body, indent=1).encode()) != outer["crc32"]:
            raise ValueError("its checksum differs")
        if body["format"] > FORMAT:
            raise DamagedCheckpointError(f"{path}: is of format {body['format']}, this version reads {FORMAT}")
        files = {name: FileEntry(**entry) for name, entry in body["files"].items()}
        return Manifest(body["format"], body["about"], body["versions"], files)
    except DamagedCheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(f"{path}: is damaged: {error}") from error


def verify(folder: Path) -> Manifest:
    """The manifest of a checkpoint, once every file that it lists is found to be as it was written.

    Raises:
        DamagedCheckpointError: one isn't.
    """
    manifest = read(folder)
    for name, entry in manifest.files.items():
        _verify_file(folder / name, entry)
    for name in manifest.files:
        if name.rpartition("/")[2] == BUFFER:
            _verify_buffer((folder / name).parent)
    return manifest


def sync_folder(folder: Path) -> None:
    """Have the folder's entries on disk as well as its files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != FILE)


def _describe(path: Path) -> FileEntry:
    has_own = path.name != BUFFER and (path.parent / BUFFER).is_file()
    return FileEntry(path.stat().st_size, None if has_own else _checksum(path))


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            value = zlib.crc32(piece, value)
    return value


def _verify_file(path: Path, entry: FileEntry) -> None:
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            raise DamagedCheckpointError(f"{path}: is damaged: {size} bytes, {entry.bytes} were written")
        if entry.crc32 is not None and _checksum(path) != entry.crc32:
            raise DamagedCheckpointError(f"{path}: is damaged: its checksum differs")
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"{path}: is missing") from error
    except OSError as error:
        raise DamagedCheckpointError(f"{path}: can't be read: {error}") from error


def _verify_buffer(folder: Path) -> None:
    """Compare the rows with the checksums that the saved buffer has of them."""
    body = json.loads(json.loads((folder / BUFFER).read_text(encoding="utf-8"))["body"])
    for array in body["arrays"]:
        for chunk in array["chunks"]:
            _verify_file(folder / chunk["file"], FileEntry(chunk["bytes"], chunk["crc32"]))


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
