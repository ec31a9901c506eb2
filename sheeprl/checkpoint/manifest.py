"""What a checkpoint consists of: `manifest.json`, written last, says what every file of it should be.

A folder without one is no checkpoint. The first line of the manifest is the checksum of all its others, in every
format there will be, so that a torn or altered one isn't believed either. The chunks of a saved buffer have checksums
in the buffer's own `buffer.json`: of these the manifest records only the size, since most of them are links to files of
the checkpoint before, and reading gigabytes again would tell nothing new.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from sheeprl.version import __version__

MANIFEST = "manifest.json"
BUFFER = "buffer.json"  # what sheeprl.buffer.saving writes last into the folder of a saved buffer
FORMAT = 1
BLOCK_BYTES = 2**20  # read at a time


class DamagedCheckpointError(ValueError):
    """A file of a checkpoint is torn, altered or missing.

    Args:
        file: which one.
        problem: what is wrong with it.
    """

    def __init__(self, file: Path | str, problem: str) -> None:
        super().__init__(file, problem)
        self.file, self.problem = file, problem

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}"


@dataclass(frozen=True)
class FileEntry:
    """How a file was when the checkpoint was written; a chunk of a saved buffer has no checksum here."""

    bytes: int
    crc32: int | None


@dataclass(frozen=True)
class Chunk:
    """A part of an array of a saved buffer, as the buffer's own list has it."""

    array: str
    bytes: int
    crc32: int


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself; files are named relative to its folder, with slashes."""

    format: int
    about: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, FileEntry]


def is_whole(folder: Path) -> bool:
    """Whether a folder was written to its end; its files may have been damaged since."""
    return (folder / MANIFEST).is_file()


def write(folder: Path, about: dict[str, Any]) -> Manifest:
    """Make a folder a checkpoint: describe all that is in it, once that is safely on the disk.

    Args:
        folder: everything is written in it but the manifest.
        about: plain values, which come back as JSON has them.

    Raises:
        DamagedCheckpointError: a buffer in it isn't whole.
        TypeError: `about` isn't plain.
        OSError: a file can't be read, or the manifest not be written.
    """
    about = json.loads(json.dumps(about))
    names = _files_below(folder)
    chunks = chunks_of(names, lambda name: (folder / name).read_bytes(), folder)
    files = {name: describe_error(folder / name, name in chunks) for name in names}
    _check_sizes(folder, files, chunks)
    for parent in {(folder / name).parent for name in names}:
        sync_folder(parent)
    manifest = Manifest(FORMAT, about, _versions(), files)
    write_atomically(folder / MANIFEST, _render(manifest))
    return manifest


def read(folder: Path) -> Manifest:
    """What a checkpoint says of itself; whether its files are so is for `verify` to find out.

    Raises:
        FileNotFoundError: there is no manifest, hence no checkpoint.
        DamagedCheckpointError: the manifest is damaged, or of a newer format.
    """
    path = folder / MANIFEST
    try:
        return parse(path.read_bytes(), path)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "is no whole checkpoint, this file is missing", str(path)) from None
    except OSError as error:
        raise DamagedCheckpointError(path, f"can't be read: {error.strerror}") from error


def verify(folder: Path) -> Manifest:
    """Read every byte of a checkpoint and compare it with what was written.

    Files that the manifest doesn't list are none of its business.

    Raises:
        FileNotFoundError: there is no manifest, hence no checkpoint.
        DamagedCheckpointError: a file isn't as it was written.
    """
    manifest = read(folder)
    for name, entry in manifest.files.items():
        _verify_file(folder / name, entry)
    chunks = chunks_of(manifest.files, lambda name: (folder / name).read_bytes(), folder)
    _check_sizes(folder, manifest.files, chunks)
    for name, chunk in chunks.items():
        _verify_file(folder / name, FileEntry(chunk.bytes, chunk.crc32))
    for name in sorted(name for name, entry in manifest.files.items() if entry.crc32 is None and name not in chunks):
        raise DamagedCheckpointError(folder / name, "has no checksum, neither in the manifest nor in a saved buffer's")
    return manifest


def parse(raw: bytes, where: Path | str) -> Manifest:
    """A manifest from the content of its file.

    Args:
        raw: the content.
        where: the file, for errors.

    Raises:
        DamagedCheckpointError: it isn't what was written, or is of a newer format.
    """
    first, _, rest = raw.partition(b"\n")
    if first != _first_line(rest):
        raise DamagedCheckpointError(where, "is damaged: its checksum differs")
    try:
        body = json.loads(raw)
        if body["format"] > FORMAT:
            found = f"is of format {body['format']}; this version of SheepRL, {__version__}, reads up to {FORMAT}"
            raise DamagedCheckpointError(where, f"{found}: use the version that wrote it, or a newer one")
        if body["format"] != FORMAT:
            raise ValueError(f"no format {body['format']} was ever written")
        files = {_inside(name): _entry(**each) for name, each in body["files"].items()}
        return Manifest(body["format"], dict(body["about"]), dict(body["versions"]), files)
    except DamagedCheckpointError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedCheckpointError(where, f"is no manifest: {error}") from error


def chunks_of(names: Iterable[str], read: Callable[[str], bytes], where: Path | str) -> dict[str, Chunk]:
    """The chunks of all saved buffers among a checkpoint's files, by their file's name.

    This is the one place here that knows how a saved buffer lists its chunks.

    Args:
        names: the checkpoint's files, relative to it.
        read: gives a file's content.
        where: the checkpoint, for errors.

    Raises:
        DamagedCheckpointError: the list of a saved buffer is damaged.
    """
    chunks = {}
    for name in names:
        path = PurePosixPath(name)
        if path.name != BUFFER:
            continue
        try:
            for array in json.loads(json.loads(read(name))["body"])["arrays"]:
                for each in array["chunks"]:
                    chunks[_inside(f"{path.parent / each['file']}")] = Chunk(
                        str(array["name"]), int(each["bytes"]), int(each["crc32"])
                    )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedCheckpointError(f"{where}/{name}", f"is damaged: {error}") from error
    return chunks


def write_atomically(path: Path, data: bytes) -> None:
    """Put a file in its place so that it is there whole or not at all, even if the power fails."""
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files_below(folder: Path) -> list[str]:
    own = {folder / MANIFEST, folder / f".{MANIFEST}.part"}
    found = (Path(parent) / file for parent, _, files in os.walk(folder, onerror=_raise) for file in files)
    return sorted(path.relative_to(folder).as_posix() for path in found if path not in own)


def _raise(error: OSError) -> None:
    raise error


def describe_error(path: Path, is_chunk: bool) -> FileEntry:
    """Size and checksum of a file that is on the disk from then on; a chunk was put there by who saved it."""
    if is_chunk:
        return FileEntry(path.stat().st_size, None)
    size, crc32 = _measure(path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return FileEntry(size, crc32)


def _measure(path: Path) -> tuple[int, int]:
    size = crc32 = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            size, crc32 = size + len(block), zlib.crc32(block, crc32)
    return size, crc32


def _check_sizes(folder: Path, files: dict[str, FileEntry], chunks: dict[str, Chunk]) -> None:
    """Whether the chunks that the saved buffers list are among the files."""
    for name, chunk in chunks.items():
        if name not in files:
            raise DamagedCheckpointError(folder / name, "is missing, the saved buffer has it")
        if files[name].bytes != chunk.bytes:
            problem = f"is damaged: {files[name].bytes} bytes, {chunk.bytes} were written"
            raise DamagedCheckpointError(folder / name, problem)


def _verify_file(path: Path, entry: FileEntry) -> None:
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            raise DamagedCheckpointError(path, f"is damaged: {size} bytes, {entry.bytes} were written")
        if entry.crc32 is not None and _measure(path) != (entry.bytes, entry.crc32):
            raise DamagedCheckpointError(path, "is damaged: its checksum differs")
    except FileNotFoundError as error:
        raise DamagedCheckpointError(path, "is missing") from error
    except OSError as error:
        raise DamagedCheckpointError(path, f"can't be read: {error.strerror}") from error


def _render(manifest: Manifest) -> bytes:
    """The file's content: JSON whose first line is the checksum of the others."""
    rest = json.dumps(asdict(manifest), indent=1).removeprefix("{\n").encode() + b"\n"
    return _first_line(rest) + b"\n" + rest


def _first_line(rest: bytes) -> bytes:
    return b'{"crc32": "%08x",' % zlib.crc32(rest)


def _inside(name: str) -> str:
    """A file's name that leads nowhere but into the checkpoint, whoever wrote it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or path.as_posix() != name or name in ("", ".") or "\0" in name:
        raise ValueError(f"{name!r} is no file of a checkpoint")
    return name


def _entry(bytes: int, crc32: int | None) -> FileEntry:
    for number in (bytes, crc32 or 0):
        if type(number) is not int or number < 0:
            raise ValueError(f"{number!r} is neither a size nor a checksum")
    return FileEntry(bytes, crc32)


def _versions() -> dict[str, str]:
    """What the checkpoint was written with; asking for a version imports nothing."""
    versions = {"sheeprl": __version__, "python": ".".join(map(str, sys.version_info[:3]))}
    for package in ("torch", "numpy", "ray"):
        with suppress(metadata.PackageNotFoundError):  # coupled mode needs no Ray
            versions[package] = metadata.version(package)
    return versions
