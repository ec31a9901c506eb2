"""Damage files: cut them, flip bits, fill the disk."""

import os
import resource
import shutil
import subprocess
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

PAGE = 4096


def cuts(path: Path) -> Iterator[int]:
    """Cut a file at every 4 KiB boundary before its end, including 0, and restore it after each cut.

    Hard links to the file, such as the chunks of a saved buffer, stay unchanged.
    """
    whole = path.read_bytes()
    with _altered(path):
        for length in range(0, len(whole), PAGE):
            path.write_bytes(whole[:length])
            yield length


def flips(path: Path, count: int | None = None, seed: int = 0) -> Iterator[int]:
    """Flip single bits of a file, every one or `count` random ones, and restore it after each flip."""
    whole = path.read_bytes()
    bits = 8 * len(whole)
    chosen = range(bits) if count is None or count >= bits else np.random.default_rng(seed).choice(bits, count, False)
    with _altered(path):
        for bit in map(int, chosen):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            yield bit


@contextmanager
def deleted(path: Path) -> Iterator[None]:
    """Delete a file within the block."""
    with _altered(path):
        yield


@contextmanager
def _altered(path: Path) -> Iterator[None]:
    """Move a file aside within the block, so that writes to its path create another file."""
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.replace(path)


class SmallDisk:
    """Folder on a separate disk of limited size.

    Attributes:
        folder: root of the disk.
        megabytes: size of the disk.
    """

    def __init__(self, folder: Path, megabytes: float) -> None:
        """Store the folder and the size."""
        self.folder, self.megabytes = folder, megabytes

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Mount the disk read-only within the block, also for root."""
        remount = ["mount", str(self.folder), "-o"]
        subprocess.run([*remount, "remount,ro"], check=True)
        try:
            yield
        finally:
            subprocess.run([*remount, "remount,rw"], check=True)

    def fill(self, leave: int = 0) -> Path:
        """Fill the disk up to `leave` free bytes; return the file to remove."""
        ballast = self.folder / "ballast"
        free = os.statvfs(self.folder)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - leave))
        return ballast


@pytest.fixture
def small_disk(tmp_path):
    """Return a function that mounts a disk of a size in megabytes. Without root the test is skipped.

    `with_file_limit` needs no rights, but runs the code in another process.
    """
    mounted = []

    def make(megabytes: float) -> SmallDisk:
        """Mount a disk."""
        folder = tmp_path / f"disk_{len(mounted)}"
        folder.mkdir()
        options = f"size={int(megabytes * 2**20)}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if shutil.which("mount") is None:
            pytest.skip("there is no mount command for a small disk")
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a small disk can't be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return SmallDisk(folder, megabytes)

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def with_file_limit(megabytes: float, function: Callable[[], object]) -> str:
    """Run a function in a forked process in which files have a size limit: larger writes fail with EFBIG.

    It needs no rights. The function must not use threads (torch, Ray, a file system at a URL).

    Returns:
        The exception of the function as `Type: message`, or "".
    """
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            outcome = _limited(int(megabytes * 2**20), function)
        except BaseException:  # nothing may get out of a fork of pytest
            outcome = traceback.format_exc()
        os.write(writer, outcome.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        outcome = file.read()
    assert os.waitpid(child, 0)[1] == 0, "the process ended before its time"
    return outcome


def _limited(limit: int, function: Callable[[], object]) -> str:
    """Limit the file size and run a function; return its exception or ""."""
    # Python ignores SIGXFSZ, so a write raises instead of ending the process.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
