"""The file `run.json` of a run: its settings that lists show, and the command, commit, host and versions of each start.

This module imports neither torch nor Ray.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from sheeprl.config.schema import Config
from sheeprl.utils.files import write_atomically
from sheeprl.version import __version__

RUN_INFO = "run.json"
LIBRARIES = ("torch", "lightning-fabric", "tensordict", "ray", "gymnasium", "numpy")
GIT_TIMEOUT = 5.0  # seconds for a call of git, which may be slow on a network drive


def write_run_info(config: Config, run_dir: Path, resumed_at: int | None = None) -> None:
    """Write what a list shows of a run, and append this start of it.

    Args:
        config: configuration of the run.
        run_dir: folder of the run.
        resumed_at: policy steps at which the run continues; None for a new run.
    """
    start = {
        "time": time.time(),
        "command": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
        "folder": os.getcwd(),
        "git": _git(),
        "host": platform.node(),
        "pid": os.getpid(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {"sheeprl": __version__, **_versions()},
        "resumed_at": resumed_at,
    }
    info = {
        "name": config.run.name,
        "tags": list(config.run.tags),
        "algo": config.algo.name,
        "env": config.env.id,
        "seed": config.run.seed,
        "mode": config.run.mode,
        "total_steps": config.run.total_steps,
        "starts": [*read_run_info(run_dir).get("starts", ()), start],
    }
    write_atomically(run_dir / RUN_INFO, json.dumps(info, indent=1).encode(), sync=False)


def read_run_info(run_dir: Path) -> dict[str, Any]:
    """Return the content of `run.json`; empty if the file is missing or damaged."""
    try:
        found = json.loads((run_dir / RUN_INFO).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _git() -> dict[str, Any] | None:
    """Return the commit of the working folder and whether files differ from it, None without a repository."""
    commit = _run_git("rev-parse", "HEAD")
    if not commit:
        return None
    changes = _run_git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit.strip(), "dirty": None if changes is None else bool(changes.strip())}


def _run_git(*words: str) -> str | None:
    """Return the output of git, None if it fails."""
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=GIT_TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _versions() -> dict[str, str | None]:
    """Return the versions of the main libraries, None for one that isn't installed."""
    return {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str | None:
    """Return the version of a distribution, None if it isn't installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
