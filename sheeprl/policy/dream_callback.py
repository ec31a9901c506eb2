"""Write dreams of a run in progress for TensorBoard."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sheeprl.callbacks.base import Callback, RunView

LOG = "dream.log"  # errors of the last process, in the run's folder


class Dreams(Callback):
    """Run `sheeprl dream` with each checkpoint, in a process beside the run.

    The animated picture in the run's folder `videos` appears in TensorBoard. A checkpoint is left out while the process
    of an earlier one runs.

    Args:
        episodes: number of episodes.
        context: rows that the world model sees first.
        horizon: rows that it imagines after them.
    """

    def __init__(self, episodes: int = 4, context: int = 5, horizon: int = 45) -> None:
        """Store the arguments."""
        self.options = [f"--episodes={episodes}", f"--context={context}", f"--horizon={horizon}"]
        self.process: subprocess.Popen[bytes] | None = None

    def on_checkpoint(self, run: RunView, path: Path) -> None:
        """Start a process, unless one runs; report the failure of the last one."""
        if self.process is not None and self.process.poll() is None:
            return
        self._report(run)
        out = run.run_dir / "videos" / f"dream_{path.name}.gif"
        command = [sys.executable, "-m", "sheeprl", "dream", str(path), f"--out={out}", *self.options]
        with (run.run_dir / LOG).open("wb") as log:  # a pipe that nobody reads would block the process
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)

    def on_end(self, run: RunView, status: str) -> None:
        """End the process; if the run is done, after its picture."""
        if self.process is None:
            return
        if status != "done":
            self.process.kill()
        self.process.wait()
        if status == "done":
            self._report(run)

    def _report(self, run: RunView) -> None:
        """Report why the last process has failed, if it has."""
        if self.process is not None and self.process.returncode:
            text = (run.run_dir / LOG).read_text(encoding="utf-8", errors="replace")
            run.message(f"sheeprl dream failed: {text.strip()[-500:]}")
