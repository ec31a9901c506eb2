"""Stop a run of this machine from another process.

This module imports neither torch nor Ray.
"""

from __future__ import annotations

import os
import platform
import signal
from pathlib import Path
from typing import Any

import psutil

from sheeprl.checkpoint.files import LOCK
from sheeprl.checkpoint.run_dir import is_locked
from sheeprl.checkpoint.run_info import read_run_info
from sheeprl.utils.errors import ConfigError


def stop_run(folder: Path) -> None:
    """Request a run to save a checkpoint and to end; return at once.

    Args:
        folder: folder of the run.

    Raises:
        ConfigError: the run isn't running, or its process isn't on this machine.
    """
    if not is_locked(folder):
        raise ConfigError([f"{folder}: isn't running; sheeprl ls shows the running ones"])
    start: dict[str, Any] = (read_run_info(folder).get("starts") or [{}])[-1]
    if start.get("host") != platform.node():
        raise ConfigError([f"{folder}: runs on {start.get('host', 'another machine')}; use the command there"])
    pid = start.get("pid")
    if not isinstance(pid, int) or not _has_open(pid, folder / LOCK):
        raise ConfigError([f"{folder}: its process isn't visible here; stop it by Ctrl-C in its terminal"])
    os.kill(pid, signal.SIGTERM)


def _has_open(pid: int, path: Path) -> bool:
    """Return whether a process has a file open, so that no other process with the same number is meant."""
    try:
        files = psutil.Process(pid).open_files()
    except psutil.Error:
        return False
    return any(os.path.realpath(file.path) == os.path.realpath(path) for file in files)
