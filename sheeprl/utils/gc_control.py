"""When Python needn't look for garbage.

Its collector walks over all objects that there are, and torch and Lightning bring a million. While modules are loaded
or a graph is compiled, nearly all that is made stays: looking again and again takes a third of the time. What modules
consist of stays for good. At the end of a process everything goes anyway.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def not_collected() -> Iterator[None]:
    """Don't look for garbage meanwhile."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Don't look for garbage meanwhile, nor ever among what is there by then, if modules were loaded."""
    before = len(sys.modules)
    with not_collected():
        try:
            yield
        finally:
            if len(sys.modules) > before:  # not for the second run of a process, which would keep the first one's
                gc.freeze()


def leave_to_the_end() -> None:
    """Let this process end without looking through what it leaves behind, which takes seconds."""
    atexit.register(gc.freeze)
