"""Test how a run is stopped from another process."""

import json
import os
import platform
import subprocess
import sys

import pytest

from sheeprl.checkpoint.files import CONFIG, LOCK
from sheeprl.checkpoint.run_info import RUN_INFO
from sheeprl.checkpoint.stopping import stop_run
from sheeprl.cli import main
from sheeprl.utils.errors import ConfigError

RUN = """
import fcntl, signal, sys
file = open(sys.argv[1])
fcntl.flock(file, fcntl.LOCK_EX)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("locked", flush=True)
signal.pause()
"""


@pytest.fixture
def running(tmp_path):
    """Return a folder that a process uses as a run does, and the process."""
    (tmp_path / CONFIG).write_text("{}")
    (tmp_path / LOCK).touch()
    command = [sys.executable, "-c", RUN, str(tmp_path / LOCK)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        yield tmp_path, process
        process.kill()


def note(folder, **start):
    """Write the start of a run."""
    start = {"host": platform.node(), "pid": os.getpid(), **start}
    (folder / RUN_INFO).write_text(json.dumps({"starts": [start]}))


def test_a_run_is_stopped(running, capsys):
    """The command ends the process of the run, and waits for its end."""
    folder, process = running
    note(folder, pid=process.pid)
    with pytest.raises(SystemExit, match="0"):
        main(["stop", str(folder)])
    assert process.wait(timeout=60) == 7
    assert capsys.readouterr().out == f"{folder}: stopped before its first checkpoint\n"
    with pytest.raises(ConfigError, match="isn't running"):
        stop_run(folder)


def test_another_process_gets_no_signal(running, monkeypatch):
    """A run on another machine, and a process that isn't the run, get no signal."""
    folder, process = running
    monkeypatch.setattr("sheeprl.checkpoint.stopping.os.kill", lambda *words: pytest.fail("a signal was sent"))
    note(folder, host="elsewhere", pid=process.pid)
    with pytest.raises(ConfigError, match="runs on elsewhere; use the command there"):
        stop_run(folder)
    note(folder)
    with pytest.raises(ConfigError, match="its process isn't visible here"):
        stop_run(folder)
    (folder / RUN_INFO).unlink()
    with pytest.raises(ConfigError, match="runs on another machine"):
        stop_run(folder)
    assert process.poll() is None
