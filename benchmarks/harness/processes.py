"""Processes of a run: find them below its driver, name their roles, measure and kill them. Reads Linux's /proc."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

ROLES = {"ray::PlayerActor": "player", "ray::ReplayActor": "shard", "ray::TrainerActor": "trainer"}
"""Roles by the prefix of Ray's process titles, which is followed by the method that runs."""
SERVICES = ("raylet", "gcs_server")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Process:
    """Process, distinguished from later ones with the same number.

    Args:
        pid: process number.
        started: start time in the kernel's ticks.
    """

    pid: int
    started: int

    def alive(self) -> bool:
        """Return True if the process runs; a zombie doesn't."""
        stat = _stat(self.pid)
        return stat is not None and stat.started == self.started and stat.state not in "ZX"

    def kill(self) -> bool:
        """Send SIGKILL; return False if the process is gone."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self.alive():  # another process got the number before it was opened
                return False
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True


@dataclass(frozen=True)
class Member:
    """A process of a run.

    Args:
        process: the process.
        role: driver, player, env worker, shard, trainer, the name of a Ray service, or other.
        title: its command line.
    """

    process: Process
    role: str
    title: str

    @property
    def is_idle_player(self) -> bool:
        """Return True for a player between two calls and for a standby process."""
        return self.title == "ray::PlayerActor"


@dataclass(frozen=True)
class Memory:
    """Bytes that a process has in RAM.

    Args:
        resident: all pages.
        unique: pages that no other process shares.
        mapped: pages of memory-mapped files, which the system can reclaim.
    """

    resident: int
    unique: int
    mapped: int


def process_of(pid: int) -> Process | None:
    """Return the process that has a number now."""
    stat = _stat(pid)
    return Process(pid, stat.started) if stat else None


def members(driver: int) -> list[Member]:
    """Return the driver's process and all its descendants, oldest first."""
    stats = {stat.pid: stat for stat in map(_stat, _pids()) if stat is not None and stat.state not in "ZX"}
    children: dict[int, list[int]] = {}
    for stat in stats.values():
        children.setdefault(stat.parent, []).append(stat.pid)
    found: list[Member] = []
    waiting = [(driver, "")] if driver in stats else []
    while waiting:
        pid, above = waiting.pop()
        title = _title(pid)
        role = _role(title, above)
        if pid == driver:
            role = "driver"
        found.append(Member(Process(pid, stats[pid].started), role, title))
        waiting += [(child, role) for child in children.get(pid, [])]
    return sorted(found, key=lambda member: (member.process.started, member.process.pid))


def memory_of(process: Process) -> Memory | None:
    """Return the memory of a process, None if it is gone or unreadable."""
    kibibytes = {"Rss": 0, "Private_Clean": 0, "Private_Dirty": 0, "Pss_File": 0}
    try:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    for line in lines[1:]:
        name, _, rest = line.partition(":")
        if name in kibibytes:
            kibibytes[name] = int(rest.split()[0])
    if not process.alive():
        return None
    unique = kibibytes["Private_Clean"] + kibibytes["Private_Dirty"]
    return Memory(kibibytes["Rss"] * 1024, unique * 1024, kibibytes["Pss_File"] * 1024)


def _role(title: str, above: str) -> str:
    """Return the role of a process from its title and its parent's role. An env worker has its player's title."""
    if above in ("player", "env worker"):
        return "env worker"
    for begin, role in ROLES.items():
        if title.startswith(begin):
            return role
    name = Path(title.partition(" ")[0]).name
    return name if name in SERVICES else "other"


@dataclass(frozen=True)
class _Stat:
    """Fields of `/proc/PID/stat`."""

    pid: int
    state: str
    parent: int
    started: int


def _stat(pid: int) -> _Stat | None:
    """Read the fields of a process, None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # after the name, which may contain any character
    return _Stat(pid, fields[0], int(fields[1]), int(fields[19]))


def _pids() -> list[int]:
    """Return the numbers of all processes."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _title(pid: int) -> str:
    """Return the command line of a process, "" if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""
