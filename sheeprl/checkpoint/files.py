"""Names of the files in a run folder, and durable writes: atomic, checksummed, synced to the disk."""

from __future__ import annotations

import os
import shutil
import zlib
from pathlib import Path

STATE = "state.json"
AGENT = "agent.pt"
CONFIG = "config.yaml"
LOCK = ".lock"
METRICS = "metrics.jsonl"
METRICS_SIZE = ".metrics_size"  # only while a checkpoint is being written
BLOCK_BYTES = 2**20  # read at a time


def step_of(checkpoint: Path) -> int:
    """Return the policy step in the name of a checkpoint folder."""
    return int(checkpoint.name[5:])


def file_size(path: Path) -> int:
    """Return the size of a file in bytes, 0 if the file doesn't exist."""
    return path.stat().st_size if path.exists() else 0


def size_and_checksum(path: Path) -> tuple[int, int]:
    """Return the size of a file in bytes and its CRC-32."""
    size = crc32 = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            size, crc32 = size + len(block), zlib.crc32(block, crc32)
    return size, crc32


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file so that it is complete or absent, even after a power failure."""
    partial = path.with_name(f".{path.name}.part")
    try:
        write_synced(partial, data)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
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
