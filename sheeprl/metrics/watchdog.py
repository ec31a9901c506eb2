"""A watchdog process that outlives the driver: it ends what the driver leaves behind and reports why the run ended.

Some of Ray's processes notice the death of their driver only after a minute. The watchdog reads from a pipe, which
closes as soon as the driver dies for any reason. It runs this file as a script, without the package, to start fast.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psutil

CRASH = "crash.log"  # traceback of a crash in C code
METRICS = "metrics.jsonl"
POLL = 0.5  # seconds between two looks at the watched processes
RUN_SCRIPT = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"


class Watchdog:
    """The driver's end of the pipe.

    Args:
        run_dir: folder of the run; None if there is nothing to report to.
        resume: command that resumes the run.
        start_over: advice for a run without a checkpoint.
    """

    def __init__(self, run_dir: Path | None = None, resume: str = "", start_over: str = "") -> None:
        """Store the arguments."""
        # In a separate session, so that Ctrl-C reaches the driver only, which then stops in order.
        command = [sys.executable, "-c", RUN_SCRIPT, __file__, str(os.getpid())]
        self._process: subprocess.Popen[bytes] | None = None
        with contextlib.suppress(OSError):  # no more processes are allowed: the run does without
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        if run_dir is not None:
            self._send(run_dir=str(run_dir), resume=resume, start_over=start_over)

    def end_with_run(self, pids: Iterable[int]) -> None:
        """End processes together with this one, and all their descendants."""
        # Collected here: a parent may have ended before the watchdog reads this.
        self._send(family=sorted(process.pid for process in family_of(pids)))

    def watch(self, services: Mapping[str, int]) -> None:
        """Name processes, by description, without which the run can't go on."""
        self._send(services=dict(services))

    def announce(self, cause: str, status: str) -> None:
        """Announce the cause of a hard end."""
        self._send(cause=cause, status=status)

    def has_end_event(self, cause: str | None) -> None:
        """Announce that the run has written its end event, with the cause of its failure if it failed."""
        self._send(has_event=True, cause=cause)

    def close(self) -> None:
        """End the remaining processes and wait for the watchdog."""
        self._send(closed=True)
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._process.wait()

    def _send(self, **message: Any) -> None:
        """Send a message to the watchdog."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):  # the watchdog was killed
                self._process.stdin.write(json.dumps(message).encode() + b"\n")
                self._process.stdin.flush()


@contextlib.contextmanager
def watched(run_dir: Path, resume: str, start_over: str) -> Iterator[Watchdog]:
    """Report a hard end of this process in the run folder, such as a crash in C code, within the block."""
    watchdog = Watchdog(run_dir, resume, start_over)
    before = faulthandler.is_enabled()
    path = run_dir / CRASH
    with path.open("ab") as file:
        faulthandler.enable(file)
        try:
            yield watchdog
        finally:
            faulthandler.disable()
            with contextlib.suppress(Exception):  # a stderr without a file
                if before:
                    faulthandler.enable(sys.__stderr__ or sys.stderr)
            if path.exists() and not path.stat().st_size:
                path.unlink()
            watchdog.close()


def family_of(pids: Iterable[int]) -> set[psutil.Process]:
    """Return the living processes of `pids` and all their descendants."""
    import psutil

    family = set()
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            family |= {process, *process.children(recursive=True)}
    return family


class _Guard:
    """The watchdog's side.

    Args:
        parent: process id of the driver.
    """

    def __init__(self, parent: int) -> None:
        """Store the arguments."""
        self.parent = parent
        self.about: dict[str, Any] = {}
        self.family: set[psutil.Process] = set()
        self.dead: str | None = None  # the first service that died
        self.out_of_memory = _out_of_memory()

    def run(self, pipe: IO[bytes]) -> None:
        """Watch until the driver ends, then end its processes and report."""
        buffered = b""
        while True:
            if not select.select([pipe], [], [], POLL)[0]:
                if os.getppid() != self.parent:  # the driver's forked processes may hold the pipe open
                    break
                self.look()
                continue
            data = os.read(pipe.fileno(), 65536)
            if not data:
                break
            *lines, buffered = (buffered + data).split(b"\n")
            for line in lines:
                self.receive(json.loads(line))
        self.end_family()
        if "run_dir" in self.about and "closed" not in self.about:
            self.report()

    def receive(self, message: dict[str, Any]) -> None:
        """Take a message of the driver."""
        if "family" in message:
            self.family |= family_of(message.pop("family"))
        self.about |= message

    def look(self) -> None:
        """Note the first service that died."""
        for name, pid in self.about.get("services", {}).items():
            # The services may end with the driver; then they aren't the cause.
            if self.dead is None and not is_alive(pid) and os.getppid() == self.parent and is_alive(self.parent):
                self.dead = name

    def end_family(self) -> None:
        """Kill the processes that end with the driver."""
        if self.family:
            import psutil

            for process in self.family | family_of(each.pid for each in self.family if each.is_running()):
                with contextlib.suppress(psutil.NoSuchProcess):  # also raised if the pid belongs to a later process
                    process.kill()

    def report(self) -> None:
        """Write the end event, and print the cause and what to do, unless the driver has."""
        has_event, cause = "has_event" in self.about, self.about.get("cause")
        if has_event and cause is None:
            return
        run_dir = Path(self.about["run_dir"])
        has_checkpoint = any(run_dir.glob("checkpoints/step_*/manifest.json"))
        advice = self.about["resume"] if has_checkpoint else self.about["start_over"]
        cause = cause or self.cause(run_dir)
        with contextlib.suppress(OSError):
            print(f"error: the run ended because {cause}; {advice}", file=sys.stderr, flush=True)
        if not has_event and (run_dir / METRICS).exists():
            append(run_dir / METRICS, {"event": "end", "status": self.about.get("status", "failed"), "cause": cause})
        crash = run_dir / CRASH
        if crash.exists() and not crash.stat().st_size:
            crash.unlink()

    def cause(self, run_dir: Path) -> str:
        """Return the cause of the driver's death."""
        if self.dead is not None:
            return f"{self.dead} on this machine died"
        with contextlib.suppress(OSError):
            if text := (run_dir / CRASH).read_text(errors="replace").strip():
                return f"its process crashed ({text.splitlines()[0]}); the traceback is in {run_dir / CRASH}"
        if _out_of_memory() > self.out_of_memory:
            return "its process was killed, probably for lack of memory (the kernel's OOM killer was active)"
        return "its process was killed, or it exited within a library or an environment"


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie doesn't."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return not Path("/proc/self").exists()  # without /proc it is alive, as far as is known
    return state not in ("Z", "X")


def append(path: Path, event: Mapping[str, Any]) -> None:
    """Append an event to a file of JSON lines, in the place of an incomplete last line."""
    with contextlib.suppress(OSError), path.open("r+b") as file:
        whole = file.read().rpartition(b"\n")
        file.truncate(len(whole[0]) + len(whole[1]))
        file.seek(0, os.SEEK_END)
        file.write(json.dumps(event).encode() + b"\n")


def _out_of_memory() -> int:
    """Return how many processes the kernel has killed for lack of memory."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = Path("/proc/vmstat").read_text()
        return int(text.partition("oom_kill ")[2].split()[0])
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _Guard(int(sys.argv[2] if len(sys.argv) > 2 else sys.argv[1])).run(sys.stdin.buffer)
