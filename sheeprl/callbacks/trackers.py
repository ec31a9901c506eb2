"""Feed experiment trackers: Weights & Biases, MLflow and Trackio, each in its own process.

The process follows `metrics.jsonl`, so the file is the queue between the run and a tracker. A tracker that hangs, dies
or waits for a network neither slows nor stops the run. `trackers/NAME.json` in the run's folder holds the tracker's id
of the run and the last step of each metric, so that a resumed run continues there and repeats nothing.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from sheeprl.callbacks.base import Callback, RunView
from sheeprl.config.yaml_io import parse_yaml
from sheeprl.utils.errors import one_line
from sheeprl.utils.files import write_atomically

TRACKERS = ("wandb", "mlflow", "trackio")
FOLDER = "trackers"
POLL_SECONDS = 0.5
PATIENCE = 20.0  # seconds that the end of a run waits for a tracker
PROJECT = "sheeprl"


class TrackerProcess(Callback):
    """Start a tracker's process with the run, and end it with the run.

    Args:
        name: `wandb`, `mlflow` or `trackio`.
        run_dir: folder of the run.
        patience: seconds that the end of the run waits for the process.
        command: the command of the process; None for that of the tracker.
    """

    def __init__(self, name: str, run_dir: Path, patience: float = PATIENCE, command: list[str] | None = None) -> None:
        """Store the arguments; `on_start` starts the process."""
        self.name, self.run_dir, self.patience = name, run_dir, patience
        self.command = command or [sys.executable, "-m", "sheeprl.callbacks.trackers", name, str(run_dir)]
        self.log = run_dir / FOLDER / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def on_start(self, run: RunView) -> None:
        """Start the process; its output goes to a file."""
        self.log.parent.mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )

    def on_round(self, run: RunView) -> None:
        """Report that the process has died, once."""
        if self.process is not None and self.process.poll() is not None:
            self._warn(run, f"ended with exit code {self.process.returncode}")

    def on_end(self, run: RunView, status: str) -> None:
        """Wait until the process has sent the rest; kill it if that takes too long."""
        if self.process is None:
            return
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()  # the process ends after the last line
            code = self.process.wait(self.patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            self._warn(run, f"did not send the last metrics within {self.patience:g} s")
        else:
            if code:
                self._warn(run, f"ended with exit code {code}")

    def _warn(self, run: RunView, reason: str) -> None:
        """Report a failure; the next start of the run sends the missing metrics."""
        self.process = None
        run.message(
            f"log.to={self.name}: the tracker {reason}: {_last_line(self.log)}; the run continues; a resume sends the "
            f"missing metrics; {self.log} has the tracker's output",
            "warning",
        )


def _last_line(path: Path) -> str:
    """Return the last line of a file."""
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no output"


# -------------------------------------------------------------------------------- in the process


class Tracker(Protocol):
    """Run in an experiment tracker."""

    id: str

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the metrics of a policy step."""

    def close(self) -> None:
        """Send the rest and end the run."""


class WandbTracker:
    """Run in Weights & Biases; offline, unless WANDB_MODE is set. `wandb sync` uploads it later."""

    def __init__(self, name: str, config: dict[str, Any], folder: Path, known: str | None) -> None:
        """Begin or continue the run."""
        import wandb

        os.environ.setdefault("WANDB_MODE", "offline")
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            config=config,
            dir=str(folder),
            id=known or secrets.token_hex(4),
            resume="allow",
        )
        self.id = str(self._run.id)
        self._run.define_metric("policy_steps")
        self._run.define_metric("*", step_metric="policy_steps")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the metrics with `policy_steps` as their axis, since the steps of wandb can't repeat."""
        self._run.log({**values, "policy_steps": step})

    def close(self) -> None:
        """Write the rest and end the run."""
        self._run.finish()


class MlflowTracker:
    """Run in MLflow, in the store that MLFLOW_TRACKING_URI names, else in MLflow's default, a local file."""

    def __init__(self, name: str, config: dict[str, Any], folder: Path, known: str | None) -> None:
        """Begin or continue the run."""
        import mlflow

        self._mlflow: Any = mlflow
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        run = mlflow.start_run(run_id=known, run_name=None if known else name)
        self.id = str(run.info.run_id)
        if known is None:
            for key, value in flat(config):
                mlflow.log_param(key, str(value)[:500])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the metrics."""
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


class TrackioTracker:
    """Run in Trackio, which stores it on this machine."""

    def __init__(self, name: str, config: dict[str, Any], folder: Path, known: str | None) -> None:
        """Begin or continue the run."""
        import trackio

        self.id = known or name
        self._trackio: Any = trackio
        trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=self.id,
            config=dict(flat(config)),
            resume="allow",
            embed=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the metrics."""
        self._trackio.log(dict(values), step=step)

    def close(self) -> None:
        """Write the rest and end the run."""
        self._trackio.finish()


MAKE: dict[str, Callable[[str, dict[str, Any], Path, str | None], Tracker]] = {
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
    "trackio": TrackioTracker,
}


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of each setting; other values than numbers and texts become text."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, (bool, int, float, str)) else str(value)


def follow(path: Path, is_over: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """Yield the lines of metrics of a growing file, until the run is over and the file is read.

    Args:
        path: the file.
        is_over: returns True once the file is complete.
    """
    position = 0
    while True:
        over = is_over()
        if path.exists():
            with path.open("rb") as file:
                file.seek(position)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    position += len(line)
                    values = json.loads(line)
                    if "event" not in values:
                        yield values
        if over:
            return
        time.sleep(POLL_SECONDS)


class Sent:
    """Metrics that a tracker has received, in a file that a resumed run continues.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        """Read the file."""
        self.path = path
        found = json.loads(path.read_bytes()) if path.exists() else {}
        self.id: str | None = found.get("id")
        self.steps: dict[str, int] = found.get("steps", {})

    def remaining(self, line: Mapping[str, Any]) -> dict[str, float]:
        """Return the metrics of a line that weren't sent yet; each metric's steps only increase."""
        return {
            key: value
            for key, value in line.items()
            if key not in ("step", "time") and value is not None and line["step"] > self.steps.get(key, -1)
        }

    def add(self, step: int, values: Mapping[str, float], tracker_id: str) -> None:
        """Store that metrics were sent."""
        self.id, self.steps = tracker_id, {**self.steps, **dict.fromkeys(values, step)}
        write_atomically(self.path, json.dumps({"id": self.id, "steps": self.steps}).encode(), sync=False)


def feed(name: str, run_dir: Path, is_over: Callable[[], bool]) -> None:
    """Send the metrics of a run to a tracker until the run is over.

    Args:
        name: name of the tracker.
        run_dir: folder of the run.
        is_over: returns True once the run has ended.
    """
    sent = Sent(run_dir / FOLDER / f"{name}.json")
    config = parse_yaml((run_dir / "config.yaml").read_text(), "config.yaml")
    assert isinstance(config, dict)
    tracker = MAKE[name](run_dir.name, config, run_dir / FOLDER, sent.id)
    for line in follow(run_dir / "metrics.jsonl", is_over):
        if values := sent.remaining(line):
            tracker.log(line["step"], values)
            sent.add(line["step"], values, tracker.id)
    tracker.close()


def main() -> None:
    """Feed the tracker that the command line names; the run ends when stdin does."""
    import select

    name, run_dir = sys.argv[1], Path(sys.argv[2])

    def is_over() -> bool:
        """Return True if the run has closed its end of the pipe or has died."""
        return bool(select.select([sys.stdin], [], [], 0)[0]) and not os.read(sys.stdin.fileno(), 1)

    try:
        feed(name, run_dir, is_over)
    except ImportError as error:
        print(one_line(error), flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
