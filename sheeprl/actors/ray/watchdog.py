"""A small process that lets nobody outlive a run which started Ray for itself.

Ray's processes see that their driver is gone, but some of them only after a minute. The guard holds one end of a pipe:
when the driver has died, however it did, the other end is closed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress

import psutil


class Watchdog:
    """The driver's end.

    Args:
        pids: of processes that, with all their children, end with this one.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        family = sorted(
            process.pid for process in family_of(pids)
        )  # by now: a parent may be gone before the guard looks
        command = [sys.executable, "-m", "sheeprl.actors.ray.watchdog", *map(str, family)]
        # In a session of its own: Ctrl-C is for the driver, who may have more to do.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def close(self) -> None:
        """Let whoever is left of them be ended, and wait until they are."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def family_of(pids: Iterable[int]) -> set[psutil.Process]:
    """Processes and their children's children, as far as they live."""
    family = set()
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            family |= {process, *process.children(recursive=True)}
    return family


def main(pids: Sequence[int]) -> None:
    """Wait until the driver is gone, then end whoever is left."""
    family = family_of(pids)
    sys.stdin.buffer.read()
    family |= family_of(process.pid for process in family if process.is_running())
    for process in family:
        with suppress(psutil.NoSuchProcess):  # which it also says of a later process of the same number
            process.kill()


if __name__ == "__main__":
    main([int(pid) for pid in sys.argv[1:]])
