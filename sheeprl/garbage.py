"""When Python needn't look for garbage.

Its collector walks over all objects that there are, and torch and Lightning bring a million. While modules are loaded
or a graph is compiled, nearly all that is made stays: looking again and again takes a third of the time. At the end of
a process everything goes anyway.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
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


def leave_to_the_end() -> None:
    """Let this process end without looking through what it leaves behind, which takes seconds."""
    atexit.register(gc.freeze)
