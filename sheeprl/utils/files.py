"""Durable files: atomic, checksummed, synced to the disk."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

BLOCK_BYTES = 2**20  # read at a time


def size_and_checksum(path: Path) -> tuple[int, int]:
    """Return the size of a file in bytes and its CRC-32."""
    size = crc32 = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            size, crc32 = size + len(block), zlib.crc32(block, crc32)
    return size, crc32


def write_synced(path: Path, data: bytes | memoryview) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, data: bytes, sync: bool = True) -> None:
    """Replace a file so that it is complete or absent, even after a power failure.

    Without `sync`, it is complete or absent after the end of the process only.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        if sync:
            write_synced(partial, data)
        else:
            partial.write_bytes(data)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the directory entries of a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_folder(final: Path, partial: Path) -> None:
    """Rename a complete folder to its final name, and delete the folder that had this name.

    After a crash between the two renames, the old folder is `.<name>.old`.
    """
    old = final.with_name(f".{final.name}.old")
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    partial.rename(final)
    sync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def encode_checksummed(value: Any, checksum: str = "crc32", content: str = "body") -> bytes:
    """Return JSON that holds a value as text and the CRC-32 of this text, under the keys `content` and `checksum`."""
    text = json.dumps(value)
    return json.dumps({checksum: zlib.crc32(text.encode()), content: text}).encode()


def decode_checksummed(data: bytes, checksum: str = "crc32", content: str = "body") -> Any:
    """Return the value in the result of `encode_checksummed`.

    Raises:
        ValueError: the data is damaged.
    """
    try:
        outer = json.loads(data)
        text = outer[content]
        if zlib.crc32(text.encode()) == outer[checksum]:
            return json.loads(text)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"isn't checksummed JSON: {error}") from error
    raise ValueError("its checksum differs")
