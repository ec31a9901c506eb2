"""Find runs by name: list them, resolve `@last`, `@best` and prefixes of names.

This module imports neither torch nor Ray.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sheeprl.algos import registry
from sheeprl.checkpoint.files import CONFIG, LOCK, METRICS
from sheeprl.checkpoint.hub import download, is_hub_name
from sheeprl.checkpoint.run_dir import base_folder, checkpoints, is_locked, read_config, unknown_run
from sheeprl.checkpoint.run_info import read_run_info
from sheeprl.config.loading import get_value
from sheeprl.metrics.summary import STATUS_NAMES
from sheeprl.utils.errors import ConfigError

LAST, BEST = "@last", "@best"
TAG = "tag:"  # begin of a word that names all runs with a tag
LOGS_DEPTH = 4  # folders below logs that are searched: algorithm, environment, run
LIKE_LAST = ("last", "latest", "newest", "lst")
SIMILAR = 0.85  # least similarity of a suggested run, from 0 to 1
LAST_BYTES = 2**16  # enough for the last line of a run's metrics
OTHER_DEPTH = 2  # folders below the working folder that are searched for runs with run.dir


LISTED = {
    "algo.name": "algo",
    "env.id": "env",
    "run.seed": "seed",
    "run.name": "name",
    "run.tags": "tags",
    "run.mode": "mode",
    "run.total_steps": "total_steps",
}
"""Names in `run.json` by setting."""


@dataclass(frozen=True)
class FoundRun:
    """Folder of a run.

    Args:
        folder: its path.
        started: time at which it was started or last resumed, in seconds since 1970.
        url: URL of a run at `checkpoint.storage`, of which the folder is a copy; None for a run of this machine.
        stored_steps: policy steps of its newest checkpoint at the URL.
    """

    folder: Path
    started: float
    url: str | None = None
    stored_steps: int | None = None

    @property
    def name(self) -> str:
        """Return the path below the working folder, or below its folder `logs`; the URL of a stored run."""
        if self.url is not None:
            return self.url
        if not self.folder.is_relative_to(base_folder()):
            return str(self.folder)
        path = self.folder.relative_to(base_folder())
        return str(path.relative_to("logs")) if path.parts[0] == "logs" and len(path.parts) > 1 else str(path)

    @cached_property
    def info(self) -> dict[str, Any]:
        """Return the content of `run.json`; without the file, the same settings of the configuration."""
        info = read_run_info(self.folder)
        if not info:
            try:
                tree = read_config(self.folder)
            except ConfigError:  # a damaged file must not hide the other runs
                tree = {}
            info = {name: get_value(tree, key) for key, name in LISTED.items()}
        return info

    def has_listed(self, key: str) -> bool:
        """Return whether `listed` knows a setting."""
        return key in LISTED

    def listed(self, key: str) -> Any:
        """Return a setting that lists show, without reading the configuration; None if it is unknown."""
        return self.info.get(LISTED[key])

    @property
    def policy_steps(self) -> int | None:
        """Return the policy steps of the newest checkpoint, None without a checkpoint."""
        if self.url is not None:
            return self.stored_steps
        found = checkpoints(self.folder)
        return int(found[-1].name[5:]) if found else None

    @property
    def path(self) -> str:
        """Return the path, relative to the working folder if the run is below it; the URL of a stored run."""
        if self.url is not None:
            return self.url
        return os.path.relpath(self.folder) if self.folder.is_relative_to(Path.cwd()) else str(self.folder)

    @property
    def status(self) -> str:
        """Return `running`, or how the run ended: `finished`, `stopped` or `failed`.

        A run that was killed has no end event; it failed. A run at `checkpoint.storage` is `stored`: its checkpoints
        don't show whether it continues.
        """
        if self.url is not None:
            return "stored"
        if is_locked(self.folder):
            return "running"
        return STATUS_NAMES.get(str(last_event(self.folder).get("status")), "failed")

    @property
    def first_started(self) -> float:
        """Return the time of the first start, in seconds since 1970; that of the newest one if it is unknown."""
        return float((self.info.get("starts") or [{}])[0].get("time", self.started))

    @property
    def started_at(self) -> str:
        """Return the time of the first start, for a list."""
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(self.first_started))


def find_runs(below: str | None = None) -> list[FoundRun]:
    """Return the runs in a folder, the last started or resumed one first.

    Args:
        below: the folder, or that of a single run, also at `checkpoint.storage`; None for `logs` and the folders of the
            working folder.

    Raises:
        ConfigError: the folder doesn't exist, or can't be read.
    """
    if below is not None and is_stored(below):
        return _newest_first(_stored_runs(below))
    base = base_folder()
    if below is None:
        folders = dict.fromkeys([*_search(base / "logs", LOGS_DEPTH), *_search(base, OTHER_DEPTH)])
    else:
        folder = Path(below).expanduser().absolute()
        if not folder.is_dir():
            raise unknown(below)
        folders = dict.fromkeys([folder] if is_run(folder) else _search(folder, LOGS_DEPTH))
        if not folders and any(is_stored(str(path)) for path in folder.iterdir()):
            return _newest_first(_stored_runs(f"file://{folder}"))
    return _newest_first(FoundRun(folder, (folder / CONFIG).stat().st_mtime) for folder in folders)


def _newest_first(runs: Iterable[FoundRun]) -> list[FoundRun]:
    """Return runs in the order of lists."""
    return sorted(runs, key=lambda run: (-run.started, run.name))


def _stored_runs(url: str) -> Iterator[FoundRun]:
    """Yield the run at a URL, or the runs in the folder at the URL."""
    from sheeprl.checkpoint.run_copies import copy_results

    for copied in copy_results(url):
        starts = read_run_info(copied.folder).get("starts") or [{}]
        started = float(starts[-1].get("time", 0.0))
        yield FoundRun(copied.folder, started, copied.url, copied.newest.step)


def is_stored(name: str) -> bool:
    """Return True for a URL and for a folder in which `checkpoint.storage` has a run, or for a checkpoint there."""
    folder = Path(re.sub(r"/checkpoints/step_\d+/?$", "", name)).expanduser()
    return "://" in name or ((folder / "lease").is_dir() and not (folder / CONFIG).exists())


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
    """Return the path of a run, given `@last`, `@best`, a prefix of its name or `hf:user/repo`.

    Existing paths and URLs are returned unchanged. A path in the run's folder may follow `@last` and `@best`, as in
    `@last/checkpoints/step_1000`.

    Raises:
        ConfigError: no run or several runs have the name.
    """
    if is_hub_name(name):
        return str(download(name, report=lambda text: print(text, file=sys.stderr)))
    word, slash, rest = name.partition("/")
    if word not in (LAST, BEST):
        return _by_prefix(name)
    runs = find_runs()
    if not runs:
        raise ConfigError([f"{word}: no run in {base_folder()}; run the command in the folder that contains logs"])
    return run_of_word(word, runs).path + slash + rest


def run_of_word(word: str, runs: Sequence[FoundRun]) -> FoundRun:
    """Return the newest run for `@last`; for `@best`, the best one among those of the newest run's environment.

    The best run has the highest mean return in its last evaluation.

    Args:
        word: `@last` or `@best`.
        runs: at least one run, the newest one first.

    Raises:
        ConfigError: the word is `@best`, and no run on the environment has an evaluation.
    """
    if word == LAST:
        return runs[0]
    from sheeprl.callbacks.records import mean_returns

    env = runs[0].listed("env.id")
    returns = {run: mean_returns(run.folder) for run in runs if run.listed("env.id") == env}
    scores = {run: by_step[max(by_step)] for run, by_step in returns.items() if by_step}
    if not scores:
        raise ConfigError([f"{word}: no run on {env}, the environment of {LAST}, has an evaluation; use {LAST}"])
    return max(scores, key=lambda run: scores[run])


def run_folder(name: str) -> Path:
    """Return the folder of the run that a name means.

    Raises:
        ConfigError: no run or several runs have the name, or the folder isn't that of a run.
    """
    folder = Path(resolve_run(name)).expanduser()
    if not is_run(folder):
        raise ConfigError([f"{name}: isn't the folder of a run; use one of sheeprl ls"])
    return folder


def matching_runs(start: str) -> list[FoundRun]:
    """Return the runs that a text means: by its whole name, else by the beginning of one.

    A whole name is that of a run's folder or path, of an algorithm, of `run.name`, or of a folder that contains runs.
    """
    start = start.rstrip("/")
    if not start:
        return []
    runs = find_runs()
    if exact := [run for run in runs if start in (run.folder.name, run.name)]:
        return exact
    whole = (
        [run for run in runs if run.listed("algo.name") == start],
        [run for run in runs if run.listed("run.name") == start],
        [run for run in runs if run.name.startswith(f"{start}/")],
    )
    if any(whole) or start in registry.registered():
        return next(filter(None, whole), [])
    by_path = [run for run in runs if run.folder.name.startswith(start) or run.name.startswith(start)]
    return by_path or [run for run in runs if str(run.listed("run.name") or "").startswith(start)]


def _by_prefix(name: str) -> str:
    """Return the path of the only run that `name` means; return existing paths and URLs unchanged."""
    if is_stored(name) or Path(name).expanduser().exists():
        return name
    matches = matching_runs(name)
    if len(matches) > 1:
        several = ", ".join(run.name for run in matches[:5]) + (", …" if len(matches) > 5 else "")
        mistake = f"{name}: {len(matches)} runs have this name or begin with it ({several})"
        raise ConfigError([f"{mistake}; use a longer name or @last"])
    if matches:
        return matches[0].path
    raise unknown(name)


def unknown(name: str) -> ConfigError:
    """Return the mistake of a name that leads to no run, with the run that was probably meant."""
    return ConfigError([unknown_run(name, _likely(name.rstrip("/")))])


def _likely(name: str) -> str:
    """Return the run, or `@last`, that a name without a run probably means; "" if there is none."""
    if name.startswith("@") or name in LIKE_LAST:
        return LAST
    names = [word for run in find_runs() for word in (run.folder.name, run.name)]
    return next(iter(difflib.get_close_matches(name, names, 1, SIMILAR)), "")


def is_done(end: Mapping[str, Any], total_steps: int | None) -> bool:
    """Return whether a run's last event means that it took all its policy steps, or that a condition ended it.

    Args:
        end: the event, from `last_event`.
        total_steps: policy steps of the run; None for as many as it took.
    """
    if end.get("status") != "done":
        return False
    return "stopped_by" in end or total_steps is None or int(end.get("policy_steps", 0)) >= total_steps


def last_event(run_dir: Path) -> dict[str, Any]:
    """Return the last line of a run's metrics if it is an event, else an empty mapping."""
    try:
        with (run_dir / METRICS).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_BYTES))
            event = json.loads(file.read().splitlines()[-1])
    except (OSError, ValueError, IndexError):  # no file, no line, or an incomplete one
        return {}
    return event if isinstance(event, dict) and "event" in event else {}
