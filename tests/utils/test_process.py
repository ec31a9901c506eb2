"""Test signals, and that a process has one run at a time."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest

from sheeprl.utils.errors import RunFailedError
from sheeprl.utils.process import Interrupted, StopSignals, exclusive, run_in_loop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_raises_unless_the_run_takes_it(number):
    """A signal raises an error unless the run handles it."""
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as raised, StopSignals():
        signal.raise_signal(number)
    assert raised.value.number == number
    assert signal.getsignal(number) is before


def test_the_run_handles_the_first_signal_and_the_second_raises():
    """The run handles the first signal; the second one raises."""
    taken = []
    with StopSignals() as signals, signals.calling(taken.append):
        signal.raise_signal(signal.SIGTERM)
        assert taken == signals.caught == [signal.SIGTERM]
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)
    assert taken == [signal.SIGTERM]


def test_a_process_with_many_open_files_is_stopped():
    """File descriptors above 1023, as a driver with many connections has, don't stop the watching thread."""
    code = (
        "import os, resource, signal, threading\n"
        "from sheeprl.utils.process import StopSignals\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))\n"
        "opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]\n"
        "received = threading.Event()\n"
        "with StopSignals() as signals, signals.calling(lambda number: None):\n"
        "    signals.on_received = lambda number: received.set()\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    print(received.wait(20))\n"
    )
    if 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 1200:
        pytest.skip("the system permits too few open files")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "True\n", done.stderr


def test_an_ignored_hangup_stays_ignored():
    """Under nohup, a closed terminal doesn't end the run."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals, signals.calling(lambda number: None):
            signal.raise_signal(signal.SIGHUP)
            assert not signals.caught
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_repeated_signal_counts_once(monkeypatch):
    """`timeout` sends its signal twice, and a closed terminal sends SIGHUP at any time."""
    monkeypatch.setattr("sheeprl.utils.process.REPEAT", 3600.0)
    with StopSignals() as signals, signals.calling(lambda number: None):
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(number)
        assert signals.caught == [signal.SIGTERM]


def test_a_signal_raises_where_the_run_does_not_wait_for_the_end():
    """A signal raises an error within `raising`."""
    with StopSignals() as signals, signals.calling(lambda number: None):
        with pytest.raises(Interrupted), signals.raising():
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted), signals.raising():
            raise AssertionError  # the signal has come before


def test_a_forked_process_has_the_original_handlers():
    """A forked process has the original signal handlers."""
    with StopSignals() as signals, signals.calling(lambda number: None):
        pid = os.fork()
        if pid == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
        assert not signals.caught


@pytest.mark.parametrize("first", [True, False])
def test_a_process_that_does_not_stop_is_ended(first):
    """It catches what the signals raise; the first signal is enough where nothing takes it."""
    program = f"""
import contextlib, os, signal, time
from sheeprl.utils import process
process.UNWIND, process.POLL, process.REPEAT = 0.2, 0.05, 0.0
with process.StopSignals() as signals, signals.calling(print) if {first} else contextlib.nullcontext():
    for _ in range({1 + first}):
        with contextlib.suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(60)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 143, ended.stderr
    assert ended.stderr == "error: ended by SIGTERM at once, since the process did not stop\n"


def test_a_process_has_one_run_at_a_time():
    """A process has one run at a time."""
    refused = []

    def second():
        """Try to start a second run."""
        try:
            with exclusive("the run"):
                pass
        except RunFailedError as error:
            refused.append(str(error))

    with exclusive("the run"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(refused) == 1 and refused[0].startswith("the run can't start: this process already has a run")
    with exclusive("the run"):
        pass


def test_a_loop_runs_beside_a_running_one():
    """An event loop runs in a thread beside a running one."""

    async def ident():
        """Return the id of the thread."""
        return threading.get_ident()

    async def cell():
        """Run a loop within a running one."""
        return run_in_loop(ident)

    assert run_in_loop(ident) == threading.get_ident()
    assert asyncio.run(cell()) != threading.get_ident()


def test_errors_of_a_loop_beside_a_running_one_are_raised():
    """Errors of a loop beside a running one are raised."""

    async def fail():
        """Raise an error."""
        raise RunFailedError("out of order")

    async def cell():
        """Run a failing loop within a running one."""
        return run_in_loop(fail)

    with pytest.raises(RunFailedError, match="out of order"):
        asyncio.run(cell())


def test_an_interrupted_thread_interrupts_the_loop_beside_it(monkeypatch):
    """An interrupt of the main thread interrupts the loop beside it."""
    monkeypatch.setattr("sheeprl.utils.process.REPEAT", 0.0)
    ended = []

    async def busy():
        """Handle signals and never end."""
        try:
            with signals.calling(lambda number: signal.raise_signal(number)):
                while True:
                    time.sleep(0.01)
        finally:
            ended.append(True)

    async def cell():
        """Send an interrupt to a loop within a running one."""
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        return run_in_loop(busy)

    with pytest.raises(KeyboardInterrupt), StopSignals() as signals:
        asyncio.run(cell())
    assert ended == [True]
