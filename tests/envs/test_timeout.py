"""Test the timeout of environment steps."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from sheeprl.envs.timeout import StepTimeoutError, StepWatch, StoppedError, StopRequest


def test_a_slow_step_is_interrupted():
    """A slow step is interrupted."""
    watch = StepWatch(0.05)
    with pytest.raises(StepTimeoutError, match=r"more than 0\.05 s \(players\.step_timeout\)"), watch.watching():
        watch.begin()
        time.sleep(60)


def test_code_that_catches_everything_is_interrupted_again():
    """Code that catches the exception is interrupted again."""
    watch = StepWatch(0.05)
    with pytest.raises(StepTimeoutError), watch.watching():
        watch.begin()
        with contextlib.suppress(Exception):
            time.sleep(60)
        time.sleep(60)


def test_each_step_has_the_full_limit():
    """Each step has the full limit, and later code has none."""
    watch = StepWatch(0.2)
    with watch.watching():
        for _ in range(4):
            watch.begin()
            time.sleep(0.1)
    time.sleep(0.3)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_the_previous_handler_is_restored():
    """The previous signal handler is restored."""

    def handler(number, frame):
        """Do nothing."""
        raise AssertionError

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with StepWatch(1.0).watching():
            assert signal.getsignal(signal.SIGALRM) is not handler
        assert signal.getsignal(signal.SIGALRM) is handler
    finally:
        signal.signal(signal.SIGALRM, before)


def test_the_timeout_has_no_effect_in_threads():
    """The timeout has no effect in other threads."""
    done = []

    def play():
        """Exceed the limit in a thread."""
        watch = StepWatch(0.01)
        with watch.watching():
            watch.begin()
            time.sleep(0.05)
        done.append(True)

    thread = threading.Thread(target=play)
    thread.start()
    thread.join()
    assert done


def test_a_process_with_fast_steps_survives():
    """A process with fast steps survives."""
    program = (
        "import time, sheeprl.envs.timeout as w\n"
        "watch = w.StepWatch(0.2, last_resort=True)\n"
        "with watch.watching():\n"
        "    for _ in range(20):\n"
        "        watch.begin()\n"
        "        time.sleep(0.05)\n"
        "time.sleep(0.5)\n"
        "print('done')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout) == (0, "done\n"), ended.stderr


def test_a_process_stuck_in_c_ends():
    """A process that is stuck in C code ends."""
    program = (
        "import signal, sheeprl.envs.timeout as w\n"
        "watch = w.StepWatch(0.05, last_resort=True)\n"
        "with watch.watching():\n"
        "    watch.begin()\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})\n"  # like C code that never returns to Python
        "    import time; time.sleep(60)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1 and "Timeout" in ended.stderr


@pytest.mark.parametrize("seconds", [None, 60.0])
def test_a_stop_request_interrupts_a_step_that_hangs(seconds):
    """A stop request interrupts a step that hangs."""
    stop = StopRequest()
    watch = StepWatch(seconds, stop=stop)
    threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
    before = signal.signal(signal.SIGUSR1, lambda *_: stop.make(patience=0.05))
    try:
        with pytest.raises(StoppedError), watch.watching():
            watch.begin()
            with contextlib.suppress(Exception):
                time.sleep(60)
            assert stop.is_ignored
            time.sleep(60)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not stop.is_ignored


def test_a_stop_request_that_was_made_before_interrupts_too():
    """An earlier stop request interrupts a step too."""
    stop = StopRequest()
    stop.make(patience=0.0)
    with pytest.raises(StoppedError), StepWatch(None, stop=stop).watching():
        time.sleep(60)
    with pytest.raises(StoppedError):
        StepWatch(None, stop=stop).check()
