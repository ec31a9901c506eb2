"""Test the processes that feed trackers."""

import importlib.util
import json
import subprocess
import sys
import time
from typing import ClassVar

import pytest

from sheeprl.callbacks import trackers
from sheeprl.callbacks.trackers import Sent, TrackerProcess, feed
from sheeprl.cli import main


class FakeTracker:
    """Tracker that stores what it gets."""

    received: ClassVar = []

    def __init__(self, name, config, folder, known):
        """Continue a known run or start one."""
        self.id = known or "new"
        FakeTracker.received.append(("begin", self.id, config["run"]["seed"]))

    def log(self, step, values):
        """Record the metrics of a step."""
        FakeTracker.received.append((step, dict(values)))

    def close(self):
        """Record the end."""
        FakeTracker.received.append(("close",))


def run_folder(tmp_path, *lines):
    """Return a folder with a configuration and lines of metrics."""
    (tmp_path / "trackers").mkdir(exist_ok=True)
    (tmp_path / "config.yaml").write_text("run: {seed: 3}\n")
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_resumed_run_sends_each_metric_once(tmp_path, monkeypatch):
    """Lines that a resume repeats aren't sent again; a late evaluation is."""
    monkeypatch.setitem(trackers.MAKE, "fake", FakeTracker)
    FakeTracker.received = []
    first = {"step": 10, "time": 1.0, "loss": 1.0, "bad": None}
    second, late = {"step": 20, "time": 2.0, "loss": 2.0}, {"step": 15, "time": 2.5, "eval": 5.0}
    feed("fake", run_folder(tmp_path, first, {"event": "resume"}, second, late), lambda: True)
    sent = [("begin", "new", 3), (10, {"loss": 1.0}), (20, {"loss": 2.0}), (15, {"eval": 5.0}), ("close",)]
    assert FakeTracker.received == sent
    FakeTracker.received = []
    feed("fake", run_folder(tmp_path, first, second, late, {"step": 30, "time": 3.0, "loss": 3.0}), lambda: True)
    assert FakeTracker.received == [("begin", "new", 3), (30, {"loss": 3.0}), ("close",)]
    assert Sent(tmp_path / "trackers" / "fake.json").steps == {"loss": 30, "eval": 15}


class Messages:
    """Stand for a run."""

    def __init__(self):
        """Start without messages."""
        self.texts = []

    def message(self, text, level):
        """Record a message."""
        self.texts.append((level, text))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import time; time.sleep(60)", "did not send the last metrics within 0.2 s"),
        ("print('no network'); raise SystemExit(3)", "ended with exit code 3: no network"),
    ],
)
def test_tracker_that_hangs_or_dies_costs_a_warning(tmp_path, code, reason):
    """The run goes on, and its end waits for the patience at most."""
    tracker, run = TrackerProcess("wandb", tmp_path, patience=0.2, command=[sys.executable, "-c", code]), Messages()
    tracker.on_start(run)
    process = tracker.process
    if "Exit" in code:
        process.wait()
        tracker.on_round(run)
        tracker.on_round(run)
    began = time.monotonic()
    tracker.on_end(run, "done")
    assert time.monotonic() - began < 30
    assert process.poll() is not None
    ((level, text),) = run.texts
    assert level == "warning"
    assert reason in text


def test_missing_package_is_a_mistake(capsys, monkeypatch):
    """The message has the command that installs it."""
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "wandb" else find(name, *rest))
    with pytest.raises(SystemExit, match="2"):
        main(["train", "ppo", "log.to=[wandb]", "--dry-run", "run.mode=coupled"])
    assert "log.to=wandb: needs wandb; " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_real_tracker(tmp_path, name):
    """The process of a tracker ends with 0 and has sent all steps, also after a resume."""
    pytest.importorskip(name)
    lines = [{"step": step, "time": 1.0, "loss": 1.0} for step in (10, 20, 30)]
    env = {"MLFLOW_TRACKING_URI": f"file:{tmp_path}/mlruns", "MLFLOW_ALLOW_FILE_STORE": "true"}
    env |= {"TRACKIO_DIR": str(tmp_path / "trackio"), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    for count in (2, 3):
        folder = run_folder(tmp_path, *lines[:count])
        command = [sys.executable, "-m", "sheeprl.callbacks.trackers", name, str(folder)]
        done = subprocess.run(command, input=b"", capture_output=True, env={"PYTHONPATH": ":".join(sys.path)} | env)
        assert done.returncode == 0, done.stdout + done.stderr
        assert Sent(folder / "trackers" / f"{name}.json").steps == {"loss": 10 * count}
