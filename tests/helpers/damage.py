"""What can happen to files: they are cut, bits of them flip, and the disk is full."""

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
    """Cut a file at every 4 KiB boundary that it goes beyond, 0 among them; it is whole again after each.

    What other names the same file has, as the chunks of a saved buffer do, isn't touched.
    """
    whole = path.read_bytes()
    with _altered(path):
        for length in range(0, len(whole), PAGE):
            path.write_bytes(whole[:length])
            yield length


def flips(path: Path, count: int | None = None, seed: int = 0) -> Iterator[int]:
    """Flip single bits of a file, which is whole again after each: every bit, or `count` of them at random."""
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
    """A file is gone, for a while."""
    with _altered(path):
        yield


@contextmanager
def _altered(path: Path) -> Iterator[None]:
    """Have the file out of the way, so that one that is written in its place is another one."""
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.replace(path)


class SmallDisk:
    """A folder on a disk of its own that is soon full.

    Attributes:
        folder: the root of the disk.
        megabytes: what fits on it.
    """

    def __init__(self, folder: Path, megabytes: float) -> None:
        self.folder, self.megabytes = folder, megabytes

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Let nobody write on it, not even root, for a while."""
        remount = ["mount", str(self.folder), "-o"]
        subprocess.run([*remount, "remount,ro"], check=True)
        try:
            yield
        finally:
            subprocess.run([*remount, "remount,rw"], check=True)

    def fill(self, leave: int = 0) -> Path:
        """Take all the room but `leave` bytes; the file that does it, to be removed by who wants the room back."""
        ballast = self.folder / "ballast"
        free = os.statvfs(self.folder)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - leave))
        return ballast


@pytest.fixture
def small_disk(tmp_path):
    """Makes disks of so many megabytes: real ones, which root can mount; elsewhere the test is skipped, with a reason.

    What runs in a process of its own can be tested without: see `with_file_limit`.
    """
    mounted = []

    def make(megabytes: float) -> SmallDisk:
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
    """Run a function in a process of its own in which no file grows beyond a size: writes fail with EFBIG there.

    Needs no rights. The process is a fork: keep what needs threads (torch, Ray, a file system at a URL) out of it.

    Returns:
        What the function raised, as `Type: message`, or nothing if it didn't.
    """
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            said = _limited(int(megabytes * 2**20), function)
        except BaseException:  # nothing may get out of a fork of pytest
            said = traceback.format_exc()
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    assert os.waitpid(child, 0)[1] == 0, "the process ended before its time"
    return said


def _limited(limit: int, function: Callable[[], object]) -> str:
    # Python ignores SIGXFSZ from its start on, hence the error.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
