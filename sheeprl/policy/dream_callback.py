"""Write dreams of a run in progress for TensorBoard."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sheeprl.callbacks.base import Callback, RunView

if TYPE_CHECKING:
    from sheeprl.config.schema import Config

LOG = "dream.log"  # errors of the last process, in the run's folder


class Dreams(Callback):
    """Run `sheeprl dream` with each checkpoint, in a process beside the run.

    The animated picture in the run's folder `videos` appears in TensorBoard. A checkpoint is left out while the process
    of an earlier one runs, but not the last one of a finished run.

    Args:
        episodes: number of episodes.
        context: rows that the world model sees first.
        horizon: rows that it imagines after them.

    Raises:
        ValueError: a number is less than 1.
    """

    def __init__(self, episodes: int = 4, context: int = 5, horizon: int = 45) -> None:
        """Store the arguments."""
        for name, number in {"episodes": episodes, "context": context, "horizon": horizon}.items():
            if number < 1:
                raise ValueError(f"{name}={number}: must be at least 1")
        self.options = [f"--episodes={episodes}", f"--context={context}", f"--horizon={horizon}"]
        self.process: subprocess.Popen[bytes] | None = None
        self.left_out: Path | None = None  # the newest checkpoint, if it has no process

    def mistakes(self, config: Config) -> Iterable[str]:
        """Return a line if the algorithm has no world model."""
        from sheeprl.algos.build import algorithm_class
        from sheeprl.algos.world_model import WorldModel
        from sheeprl.policy.dreaming import dreamers

        if not issubclass(algorithm_class(config.algo), WorldModel):
            yield f"{config.algo.name} has no world model; use it with {' or '.join(dreamers())}"

    def on_checkpoint(self, run: RunView, path: Path) -> None:
        """Start a process, unless one runs; report the failure of the last one."""
        if self.process is not None and self.process.poll() is None:
            self.left_out = path
            return
        self._report(run)
        self.left_out = None
        out = run.run_dir / "videos" / f"dream_{path.name}.gif"
        command = [sys.executable, "-m", "sheeprl", "dream", str(path), f"--out={out}", *self.options]
        with (run.run_dir / LOG).open("wb") as log:  # a pipe that nobody reads would block the process
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)

    def on_end(self, run: RunView, status: str) -> None:
        """End the process; if the run is done, after the picture of its last checkpoint."""
        if self.process is None:
            return
        if status != "done":
            self.process.kill()
            self.process.wait()
            return
        self.process.wait()
        if self.left_out is not None:
            self.on_checkpoint(run, self.left_out)
            self.process.wait()
        self._report(run)

    def _report(self, run: RunView) -> None:
        """Report why the last process has failed, if it has."""
        if self.process is not None and self.process.returncode:
            text = (run.run_dir / LOG).read_text(encoding="utf-8", errors="replace")
            run.message(f"sheeprl dream failed: {text.strip()[-500:]}")
