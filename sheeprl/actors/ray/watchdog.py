"""A watchdog process that ends a local Ray when its driver dies.

Some of Ray's processes notice the death of their driver only after a minute. The watchdog reads from a pipe, which
closes as soon as the driver dies for any reason.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress

import psutil


class Watchdog:
    """The driver's end of the pipe.

    Args:
        pids: processes that end with this one, together with all their descendants.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        """Start the watchdog process."""
        # Collected here: a parent may have ended before the watchdog starts.
        family = sorted(process.pid for process in family_of(pids))
        command = [sys.executable, "-m", "sheeprl.actors.ray.watchdog", *map(str, family)]
        # In a separate session, so that Ctrl-C reaches the driver only, which then stops in order.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def close(self) -> None:
        """End the remaining processes and wait for the watchdog."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def family_of(pids: Iterable[int]) -> set[psutil.Process]:
    """Return the living processes of `pids` and all their descendants."""
    family = set()
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            family |= {process, *process.children(recursive=True)}
    return family


def main(pids: Sequence[int]) -> None:
    """Wait until the pipe closes, then kill the remaining processes."""
    family = family_of(pids)
    sys.stdin.buffer.read()
    family |= family_of(process.pid for process in family if process.is_running())
    for process in family:
        with suppress(psutil.NoSuchProcess):  # also raised if the pid belongs to a later process
            process.kill()


if __name__ == "__main__":
    main([int(pid) for pid in sys.argv[1:]])
