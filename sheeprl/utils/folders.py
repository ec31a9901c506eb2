"""Check folders before a run writes to them."""

from __future__ import annotations

import os
from pathlib import Path


def why_not_writable(folder: Path) -> str:
    """Return why files can't be created in a folder, "" if they can.

    Missing folders are created for the test and removed again: permissions alone don't show a read-only or full file
    system.
    """
    created: list[Path] = []
    try:
        for path in (*reversed(folder.parents), folder):
            if not path.exists():
                path.mkdir()
                created.append(path)
        if not folder.is_dir():
            return "Not a directory"
        return "" if os.access(folder, os.W_OK | os.X_OK) else "permission denied"
    except OSError as error:
        return error.strerror or type(error).__name__
    finally:
        for path in reversed(created):
            path.rmdir()
