"""Control of Python's garbage collector.

The collector visits all objects, and torch and Lightning create a million. While modules are imported or a graph is
compiled, nearly all new objects stay alive, and collections take a third of the time. The objects of modules are never
freed. At exit, the operating system frees all memory.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def not_collected() -> Iterator[None]:
    """Disable garbage collection during the block."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Disable garbage collection during the block; if it imports modules, exclude all current objects for good."""
    before = len(sys.modules)
    with not_collected():
        try:
            yield
        finally:
            if len(sys.modules) > before:  # a second run must not freeze the objects of the first run
                gc.freeze()
                atexit.register(_unfreeze)


def leave_to_the_end() -> None:
    """Skip the garbage collection at exit, which takes seconds."""
    atexit.register(_freeze)


def _freeze() -> None:
    """Exclude all objects from collection for the rest of the process."""
    gc.freeze()
    if _reports_leaks():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _unfreeze() -> None:
    """Allow Python to collect the modules at exit if it would otherwise report them."""
    if _reports_leaks():
        gc.unfreeze()


def _reports_leaks() -> bool:
    """Return whether Triton is loaded; it prints a report of all objects that are alive at the end of the process."""
    return "triton._C.libtriton" in sys.modules
