"""Test that no worker survives a driver with a watchdog, however the driver ends."""

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
from sheeprl.actors.ray.watchdog import Watchdog

sleep = [sys.executable, "-c", "import time; time.sleep(100)"]
starts_another = f"import subprocess, time; subprocess.Popen({sleep!r}); time.sleep(100)"
parent = psutil.Popen([sys.executable, "-c", starts_another])
bystander = subprocess.Popen(sleep)
while not parent.children():
    time.sleep(0.01)
child = parent.children()[0]
watchdog = Watchdog([parent.pid])
print(parent.pid, child.pid, bystander.pid, watchdog._process.pid, flush=True)
sys.stdin.readline()
watchdog.close()
time.sleep(100)
"""


@pytest.fixture
def driver():
    """Yield a driver process and its parent, child, bystander and watchdog processes."""
    process = subprocess.Popen([sys.executable, "-c", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    family = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
    yield process, family
    for each in [process, *family]:
        if each.poll() is None if isinstance(each, subprocess.Popen) else each.is_running():
            each.kill()
    process.communicate()


def is_gone(process):
    """Return whether a process ends within 10 s; an orphan may remain as a zombie."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_the_workers_of_a_killed_driver_end(driver):
    """The workers of a killed driver end."""
    process, (parent, child, bystander, watchdog) = driver
    os.kill(process.pid, signal.SIGKILL)
    assert is_gone(parent) and is_gone(child) and is_gone(watchdog)
    assert bystander.is_running()


def test_close_ends_the_remaining_workers(driver):
    """`close` ends the remaining workers."""
    process, (parent, child, bystander, watchdog) = driver
    process.stdin.write("\n")
    process.stdin.flush()
    assert is_gone(watchdog) and is_gone(parent) and is_gone(child)
    assert bystander.is_running() and process.poll() is None


def test_ctrl_c_does_not_reach_the_watchdog(driver):
    """Ctrl-C doesn't reach the watchdog."""
    process, (parent, _, _, watchdog) = driver
    assert os.getsid(watchdog.pid) == watchdog.pid != os.getsid(process.pid)
    assert parent.is_running()


def test_descendants_of_ended_workers_end(driver):
    """Descendants of workers that have ended before end, too."""
    process, (parent, child, _, watchdog) = driver
    parent.kill()  # its child is an orphan, which the watchdog knows
    process.kill()
    assert is_gone(watchdog) and is_gone(child)
