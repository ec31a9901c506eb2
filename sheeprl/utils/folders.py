"""Check folders before a run writes to them, and find the folder for files that can be made again."""

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


def cache_root() -> Path:
    """Return the folder for files that can be made again: `SHEEPRL_CACHE`, or one in the user's cache folder."""
    own = os.environ.get("SHEEPRL_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sheeprl"
