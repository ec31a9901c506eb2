"""Nobody outlives a driver that has a guard, however the driver ends."""

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
guard = Watchdog([parent.pid])
print(parent.pid, child.pid, bystander.pid, guard._process.pid, flush=True)
sys.stdin.readline()
guard.close()
time.sleep(100)
"""


@pytest.fixture
def driver():
    process = subprocess.Popen([sys.executable, "-c", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    family = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
    yield process, family
    for each in [process, *family]:
        if each.poll() is None if isinstance(each, subprocess.Popen) else each.is_running():
            each.kill()
    process.communicate()


def is_gone(process):
    """Whether it ends within some seconds; whoever isn't waited for by a parent stays as a zombie."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_who_a_killed_driver_leaves_is_ended(driver):
    process, (parent, child, bystander, guard) = driver
    os.kill(process.pid, signal.SIGKILL)
    assert is_gone(parent) and is_gone(child) and is_gone(guard)
    assert bystander.is_running()


def test_closing_ends_whoever_is_left(driver):
    process, (parent, child, bystander, guard) = driver
    process.stdin.write("\n")
    process.stdin.flush()
    assert is_gone(guard) and is_gone(parent) and is_gone(child)
    assert bystander.is_running() and process.poll() is None


def test_ctrl_c_does_not_reach_the_guard(driver):
    process, (parent, _, _, guard) = driver
    assert os.getsid(guard.pid) == guard.pid != os.getsid(process.pid)
    assert parent.is_running()


def test_who_has_ended_before_is_no_matter(driver):
    process, (parent, child, _, guard) = driver
    parent.kill()  # its child is nobody's now, but the guard has seen it
    process.kill()
    assert is_gone(guard) and is_gone(child)
