"""Test that no process outlives its driver, and that the watchdog reports the cause of the end."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

DRIVER = """
import subprocess, sys, time
import psutil
from sheeprl.metrics.watchdog import Watchdog

sleep = [sys.executable, "-c", "import time; time.sleep(100)"]
starts_another = f"import subprocess, time; subprocess.Popen({sleep!r}); time.sleep(100)"
parent = psutil.Popen([sys.executable, "-c", starts_another])
bystander = subprocess.Popen(sleep)
while not parent.children():
    time.sleep(0.01)
child = parent.children()[0]
guard = Watchdog()
guard.end_with_run([parent.pid])
print(parent.pid, child.pid, bystander.pid, guard._process.pid, flush=True)
sys.stdin.readline()
guard.close()
time.sleep(100)
"""


@pytest.fixture
def driver():
    """Start a driver with processes and a watchdog."""
    process = subprocess.Popen([sys.executable, "-c", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    family = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
    yield process, family
    for each in [process, *family]:
        if each.poll() is None if isinstance(each, subprocess.Popen) else each.is_running():
            each.kill()
    process.communicate()


def is_gone(process):
    """Return whether the process ends within some seconds. A process without a waiting parent stays as a zombie."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_the_processes_of_a_killed_driver_end(driver):
    """The processes of a killed driver end."""
    process, (parent, child, bystander, guard) = driver
    os.kill(process.pid, signal.SIGKILL)
    assert is_gone(parent) and is_gone(child) and is_gone(guard)
    assert bystander.is_running()


def test_closing_ends_all_remaining_processes(driver):
    """Closing the watchdog ends all remaining processes."""
    process, (parent, child, bystander, guard) = driver
    process.stdin.write("\n")
    process.stdin.flush()
    assert is_gone(guard) and is_gone(parent) and is_gone(child)
    assert bystander.is_running() and process.poll() is None


def test_ctrl_c_does_not_reach_the_watchdog(driver):
    """Ctrl-C doesn't reach the watchdog, which has a separate session."""
    process, (parent, _, _, guard) = driver
    assert os.getsid(guard.pid) == guard.pid != os.getsid(process.pid)
    assert parent.is_running()


def test_an_earlier_end_of_a_process_is_ignored(driver):
    """An earlier end of a process is ignored, and its children end."""
    process, (parent, child, _, guard) = driver
    parent.kill()  # its child has no parent now, but the watchdog has seen it
    process.kill()
    assert is_gone(guard) and is_gone(child)


REPORTED = """
import os, pathlib, subprocess, sys, time
from sheeprl.metrics.watchdog import watched

folder = pathlib.Path(sys.argv[1])
with watched(folder, "sheeprl resume it", "start it again") as guard:
    (folder / "metrics.jsonl").write_text('{"step": 1}\\n{"step"')
    exec(sys.argv[2])
"""


def end_by(folder, code, checkpoint=True):
    """Run code in a watched process; return its exit code, what it and the watchdog print, and the event."""
    if checkpoint:
        (folder / "checkpoints" / "step_1").mkdir(parents=True)
        (folder / "checkpoints" / "step_1" / "manifest.json").touch()
    words = [sys.executable, "-c", REPORTED, str(folder), code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)  # the watchdog holds stderr until it ends
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return done.returncode, done.stderr, [json.loads(line) for line in lines[1:] if line != '{"step"']


def test_a_killed_process_is_reported(tmp_path):
    """A killed process is reported."""
    code, errors, events = end_by(tmp_path, "os.kill(os.getpid(), 9)")
    assert code == -signal.SIGKILL
    cause = "its process was killed, or it exited within a library or an environment"
    assert events == [{"event": "end", "status": "failed", "cause": cause}]
    assert errors == f"error: the run ended because {cause}; sheeprl resume it\n"
    assert not (tmp_path / "crash.log").exists()


def test_a_crash_in_c_code_leaves_its_traceback(tmp_path):
    """A crash in C code leaves its traceback."""
    code, errors, events = end_by(tmp_path, "import ctypes; ctypes.string_at(0)", checkpoint=False)
    assert code == -signal.SIGSEGV
    assert "its process crashed (Fatal Python error: Segmentation fault)" in events[0]["cause"]
    assert errors.endswith("start it again\n")
    assert "Current thread" in (tmp_path / "crash.log").read_text()


def test_a_service_that_died_before_is_the_cause(tmp_path):
    """An earlier death of a service is reported as the cause."""
    program = (
        "service = subprocess.Popen(['sleep', '60']); guard.watch({'the service': service.pid}); service.kill(); "
        "time.sleep(1.2); os._exit(1)"
    )
    _, errors, events = end_by(tmp_path, program)
    assert events[0]["cause"] == "the service on this machine died"
    assert errors == "error: the run ended because the service on this machine died; sheeprl resume it\n"


def test_an_announced_end_is_reported_with_its_cause(tmp_path):
    """An announced end is reported with its cause."""
    _, errors, events = end_by(tmp_path, "guard.announce('of a reason', 'interrupted'); os._exit(143)")
    assert events == [{"event": "end", "status": "interrupted", "cause": "of a reason"}]
    assert errors == "error: the run ended because of a reason; sheeprl resume it\n"


def test_a_hard_end_after_the_end_event_has_no_second_one(tmp_path):
    """A hard exit after the end event adds no second one."""
    _, errors, events = end_by(tmp_path, "guard.has_end_event('something failed'); os._exit(1)")
    assert events == [] and errors == "error: the run ended because something failed; sheeprl resume it\n"


@pytest.mark.parametrize("code", ["pass", "raise SystemExit(3)", "guard.has_end_event(None); os._exit(0)"])
def test_an_orderly_end_is_not_reported(tmp_path, code):
    """An orderly end isn't reported."""
    assert end_by(tmp_path, code)[1:] == ("", [])
    assert not (tmp_path / "crash.log").stat().st_size if (tmp_path / "crash.log").exists() else True
