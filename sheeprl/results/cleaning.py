"""Remove checkpoints of runs that have ended."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sheeprl.checkpoint.best import best_checkpoint
from sheeprl.checkpoint.run_dir import checkpoints, is_locked
from sheeprl.checkpoint.runs import FoundRun
from sheeprl.utils.errors import ConfigError
from sheeprl.utils.time_spans import seconds_of

KEEP = ("best", "last")


@dataclass(frozen=True)
class Removal:
    """Checkpoint to remove, with its run and its size in bytes."""

    run: FoundRun
    checkpoint: Path
    bytes: int


def removals(runs: Sequence[FoundRun], keep: str, older: str | None = None) -> Iterator[Removal]:
    """Yield the checkpoints to remove. Runs in progress are skipped.

    A replay that a checkpoint shares with others by links counts to each of them.

    Args:
        runs: the runs.
        keep: kinds of checkpoints to keep, separated by commas: `best`, `last`.
        older: least age of a run's newest file, such as 14d; None for any.

    Raises:
        ConfigError: `keep` or `older` is wrong, or a run is at `checkpoint.storage`.
    """
    if stored := [run.name for run in runs if run.url is not None]:
        raise ConfigError([f"{stored[0]}: is at checkpoint.storage; only a run itself removes checkpoints there"])
    kinds = keep.split(",")
    if wrong := [kind for kind in kinds if kind not in KEEP]:
        raise ConfigError([f"--keep {keep}: {wrong[0]!r} is unknown; use best, last or best,last"])
    least = 0.0 if older is None else seconds_of(older, "--older")
    return _removals(runs, kinds, time.time() - least)


def _removals(runs: Sequence[FoundRun], kinds: Sequence[str], before: float) -> Iterator[Removal]:
    """Yield the checkpoints to remove, of runs without a change since a time."""
    for run in runs:
        found = checkpoints(run.folder)
        if not found or is_locked(run.folder) or _changed(run.folder) > before:
            continue
        retained = {found[-1]} if "last" in kinds else set()
        if "best" in kinds:
            retained.add(best_checkpoint(run.folder))
        for path in found:
            if path not in retained:
                yield Removal(run, path, sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))


def _changed(folder: Path) -> float:
    """Return the time of the newest change in a run's folder, in seconds since 1970."""
    return max(path.stat().st_mtime for path in [folder, *folder.iterdir(), *checkpoints(folder)])
