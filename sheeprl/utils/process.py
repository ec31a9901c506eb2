"""Use of the process that trains: its signals, one run at a time, and an event loop beside a running one."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from sheeprl.utils.errors import RunFailedError

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REPEAT = 0.5  # seconds within which a repeated signal counts once: `timeout` and job schedulers send it twice
UNWIND = 10.0  # seconds for the process to end in order, before it is ended
POLL = 0.5  # seconds between two checks after a signal


class _Use:
    """The lock of this process, and the owner of its signals."""

    def __init__(self) -> None:
        """Store the arguments."""
        self.lock = threading.Lock()
        self.signals: StopSignals | None = None

    def after_fork(self) -> None:
        """Reset a forked process, which shares neither the lock nor the signals of its parent."""
        self.lock = threading.Lock()
        signals, self.signals = self.signals, None
        if signals is not None:
            signals._leave_to_parent()


_use = _Use()
os.register_at_fork(after_in_child=_use.after_fork)


@contextlib.contextmanager
def exclusive(what: str) -> Iterator[None]:
    """Refuse a second run or evaluation in this process within the block.

    They would share the random generators of the process and the number of its threads.

    Raises:
        RunFailedError: this process has another run or evaluation.
    """
    lock = _use.lock
    if not lock.acquire(blocking=False):
        raise RunFailedError(
            f"{what} can't start: this process already has a run or an evaluation, and they would share its random "
            "generators; start it after the other, or in a separate process"
        )
    try:
        yield
    finally:
        lock.release()


class Interrupted(KeyboardInterrupt):
    """Raised by a signal that ends the process at once.

    Args:
        number: number of the signal.
    """

    def __init__(self, number: int) -> None:
        """Store the arguments."""
        super().__init__(number)
        self.number = number


class _Received:
    """Numbers of the signals received, without repeats.

    A signal that comes again within `REPEAT` seconds is a repeat, and so is each SIGHUP after another signal: a
    terminal that closes sends several, and none of them means that the process should end at once.
    """

    def __init__(self) -> None:
        """Start without signals."""
        self.numbers: list[int] = []
        self._times: dict[int, float] = {}  # newest time of each number

    def add(self, number: int) -> bool:
        """Add a signal, and return False if it is a repeat."""
        before, self._times[number] = self._times.get(number), time.monotonic()
        is_repeat = before is not None and self._times[number] - before < REPEAT
        if is_repeat or (self.numbers and number == signal.SIGHUP):
            return False
        self.numbers.append(number)
        return True


class StopSignals:
    """Handles SIGINT, SIGTERM and SIGHUP within a block. A SIGHUP that the process ignores, as under nohup, stays so.

    The first signal calls `on_first` if it is set, else it raises `Interrupted`; each later signal raises. If that
    doesn't end the block, for example because the main thread is in C code, a thread ends the process. Only the main
    thread can handle signals; elsewhere the block has no effect.

    Attributes:
        on_first: called with the number of the first signal.
        on_received: called with the number of each signal, in another thread, also while the main thread is in C code.
        is_stuck: returns True if the main thread hasn't stopped in time after the first signal.
        before_exit: called with the number of the signal before the thread ends the process.
    """

    def __init__(self) -> None:
        """Store the arguments."""
        self.before_exit: Callable[[int], None] = lambda number: None
        self.on_received: Callable[[int], None] = lambda number: None
        self.is_stuck: Callable[[], bool] = lambda: False
        self.on_first: Callable[[int], None] | None = None
        self._received = _Received()
        self._previous: dict[int, Any] = {}

    @property
    def caught(self) -> list[int]:
        """Return the numbers of the signals that the main thread has handled."""
        return self._received.numbers

    def __enter__(self) -> StopSignals:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.getsignal(number) for number in SIGNALS}
            if self._previous[signal.SIGHUP] is signal.SIG_IGN:
                del self._previous[signal.SIGHUP]
            self.install()
            read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._previous_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(read,), name="sheeprl signals", daemon=True).start()
            _use.signals = self
        return self

    def install(self) -> None:
        """Install the handlers, also after a library has replaced them; in the main thread only."""
        if self._previous and threading.current_thread() is threading.main_thread():
            for number in self._previous:
                signal.signal(number, self._handle)

    def __exit__(self, *error: object) -> None:
        """Restore the previous handlers."""
        if self._previous and _use.signals is self:
            _use.signals = None
            signal.set_wakeup_fd(self._previous_fd)
            for number, handler in self._previous.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
            os.close(self._write)

    @contextlib.contextmanager
    def calling(self, on_first: Callable[[int], None]) -> Iterator[None]:
        """Call a function at the first signal within the block. The function may run in another thread."""
        self.install()
        self.on_first = on_first
        try:
            yield
        finally:
            self.on_first = None

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Raise at the first signal within the block, or at once if it has come before.

        Raises:
            Interrupted: a signal has come.
        """
        if self.caught:
            raise Interrupted(self.caught[0])
        before, self.on_first = self.on_first, None
        try:
            yield
        finally:
            self.on_first = before

    def _handle(self, number: int, frame: object) -> None:
        """Handle a signal, in the main thread.

        Raises:
            Interrupted: the signal ends the process at once.
        """
        if not self._received.add(number):
            return
        if self.on_first is None or len(self.caught) > 1:
            raise Interrupted(number)
        self.on_first(number)

    def _watch(self, read: int) -> None:
        """End the process if the main thread doesn't handle a signal, or doesn't end soon after it should."""
        received = _Received()
        readable = select.poll()  # `select.select` refuses file descriptors above 1023
        readable.register(read, select.POLLIN)
        polls = 0  # not seconds, since the process may be suspended
        while True:
            if readable.poll(1000 * POLL if received.numbers else None):
                data = os.read(read, 1024)
                if not data:
                    return os.close(read)
                if new := [byte for byte in data if byte in self._previous and received.add(byte)]:
                    polls = 0
                    self.on_received(new[0])
            numbers = received.numbers
            stops_by_itself = self.on_first is not None and len(self.caught) == len(numbers) == 1
            if not numbers or (stops_by_itself and not self.is_stuck()):
                polls = 0
            elif len(numbers) > 2 or polls * POLL > UNWIND:
                self._exit(numbers[-1])
            polls += 1

    def _exit(self, number: int) -> None:
        """End the process."""
        name = signal.Signals(number).name
        with contextlib.suppress(Exception):
            os.write(2, f"error: ended by {name} at once, since the process did not stop\n".encode())
            self.before_exit(number)
        os._exit(128 + number)

    def _leave_to_parent(self) -> None:
        """Restore SIGTERM in a forked process. Ignore Ctrl-C and SIGHUP of its terminal, which the parent handles."""
        if self._previous:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def ending_with_parent() -> Iterator[None]:
    """End this process if its parent ends within the block; on Linux only."""
    set_parent_death_signal = 1
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else lambda option, number: None
    prctl(set_parent_death_signal, signal.SIGKILL)
    try:
        yield
    finally:
        prctl(set_parent_death_signal, 0)


def run_in_loop(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine function to its end, in a separate thread if this thread already runs an event loop.

    A notebook and an asynchronous Ray actor run one.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(main())
    return _run_in_thread(lambda: asyncio.run(main()))


def _run_in_thread(function: Callable[[], T]) -> T:
    """Run a function in a thread, and interrupt it if this thread is interrupted."""
    outcome: Future[T] = Future()

    def work() -> None:
        """Run the function and store its result."""
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=work, name="sheeprl driver", daemon=True)
    thread.start()
    try:
        return outcome.result()
    except KeyboardInterrupt:
        while not outcome.done():  # again, since other code may catch the exception
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident or 0), ctypes.py_object(KeyboardInterrupt)
            )
            thread.join(1.0)
        raise
