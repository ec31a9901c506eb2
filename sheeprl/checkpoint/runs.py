"""Find runs by name: list them, resolve `@last` and prefixes of names.

This module imports neither torch nor Ray.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sheeprl.checkpoint.files import CONFIG, LOCK, METRICS
from sheeprl.checkpoint.run_dir import base_folder, checkpoints
from sheeprl.utils.errors import ConfigError

LAST = "@last"
LOGS_DEPTH = 4  # folders below logs that are searched: algorithm, environment, run
OTHER_DEPTH = 2  # folders below the working folder that are searched for runs with run.dir


@dataclass(frozen=True)
class FoundRun:
    """Folder of a run.

    Args:
        folder: its path.
        started: time at which it was started or resumed, in seconds since 1970.
    """

    folder: Path
    started: float

    @property
    def name(self) -> str:
        """Return the path below the working folder, or below its folder `logs`."""
        path = self.folder.relative_to(base_folder())
        return str(path.relative_to("logs")) if path.parts[0] == "logs" and len(path.parts) > 1 else str(path)

    @property
    def policy_steps(self) -> int | None:
        """Return the policy steps of the newest checkpoint, None without a checkpoint."""
        found = checkpoints(self.folder)
        return int(found[-1].name[5:]) if found else None

    @property
    def started_at(self) -> str:
        """Return the time of the start, for a list."""
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(self.started))


def find_runs() -> list[FoundRun]:
    """Return the runs in `logs` and in folders of the working folder, the newest first."""
    base = base_folder()
    folders = dict.fromkeys([*_search(base / "logs", LOGS_DEPTH), *_search(base, OTHER_DEPTH)])
    found = [FoundRun(folder, (folder / CONFIG).stat().st_mtime) for folder in folders]
    return sorted(found, key=lambda run: (-run.started, run.name))


def _search(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the run folders below a folder, without looking into run folders."""
    try:
        entries = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    except OSError:  # no such folder, or not readable
        return
    for name in entries:
        if name.startswith("."):
            continue
        path = folder / name
        if is_run(path):
            yield path
        elif depth > 1:
            yield from _search(path, depth - 1)


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of a run."""
    return (folder / CONFIG).is_file() and any((folder / name).exists() for name in (METRICS, LOCK, "checkpoints"))


def resolve_run(name: str) -> str:
    """Return the path of a run, given `@last` or a prefix of its name; return paths and URLs unchanged.

    `@last` may be followed by a path in the run's folder, as in `@last/checkpoints/step_1000`.

    Raises:
        ConfigError: there is no run, or several runs have the prefix.
    """
    if name != LAST and not name.startswith(f"{LAST}/"):
        return _by_prefix(name)
    runs = find_runs()
    if not runs:
        raise ConfigError([f"{name}: no run in {base_folder()}; run the command in the folder that contains logs"])
    return _shown(runs[0]) + name.removeprefix(LAST)


def _by_prefix(name: str) -> str:
    """Return the path of the only run whose name or path starts with `name`; return other names unchanged."""
    if "://" in name or Path(name).expanduser().exists():
        return name
    start = name.rstrip("/")
    matches = [run for run in find_runs() if run.folder.name.startswith(start) or run.name.startswith(start)]
    if len(matches) > 1:
        several = ", ".join(run.name for run in matches[:5]) + (", …" if len(matches) > 5 else "")
        raise ConfigError([f"{name}: {len(matches)} runs start so ({several}); use a longer prefix or @last"])
    return _shown(matches[0]) if matches and start else name


def _shown(run: FoundRun) -> str:
    """Return the path of a run, relative to the working folder if the run is below it."""
    return os.path.relpath(run.folder) if run.folder.is_relative_to(Path.cwd()) else str(run.folder)
