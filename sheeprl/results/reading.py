"""Read the results of runs, and import those of other programs.

A word on the command line names results: a run (`@last`, a folder, a prefix of names), several runs (a folder that
contains some, its URL at `checkpoint.storage`, a prefix, `tag:WORD`), a `monitor.csv` of Stable-Baselines3 or a folder
of TensorBoard events.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sheeprl.callbacks.records import EPISODES, EVALUATIONS
from sheeprl.checkpoint.files import METRICS
from sheeprl.checkpoint.run_dir import read_config
from sheeprl.checkpoint.runs import (
    BEST,
    LAST,
    TAG,
    FoundRun,
    find_runs,
    is_run,
    is_stored,
    matching_runs,
    run_of_word,
    unknown,
)
from sheeprl.config.loading import get_value
from sheeprl.utils.errors import ConfigError

Array = npt.NDArray[Any]
EVENTS = "events.out.tfevents.*"
EVAL_TAGS = ("Test/cumulative_reward", "eval/mean_reward", "eval/return")
EPISODE_TAGS = ("rollout/ep_rew_mean", "charts/episodic_return", "Rewards/rew_avg", "episode/return")
LAST_EPISODES = 100  # of training, for the final score of a run without evaluations


@dataclass(frozen=True)
class Curve:
    """Returns over the course of a run: policy steps, seconds and values, each `[N]`."""

    steps: Array
    seconds: Array
    values: Array

    def over(self, axis: str) -> Array:
        """Return the horizontal axis: `steps` or `time`, in hours."""
        return self.steps if axis == "steps" else self.seconds / 3600


@dataclass
class Results:
    """Results of one run.

    Args:
        name: its name.
        folder: its folder or file.
        settings: settings by dotted key.
    """

    name: str
    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)

    def value_of(self, key: str) -> Any:
        """Return a setting, None if it is unknown."""
        return self.settings.get(key)

    @property
    def episodes(self) -> Curve:
        """Return the returns of training episodes."""
        raise NotImplementedError

    @property
    def evaluations(self) -> Curve:
        """Return the mean returns of evaluations."""
        raise NotImplementedError

    def curve(self, of: str) -> Curve:
        """Return the curve of `eval` or of `episodes`; `auto` prefers evaluations if there are several."""
        if of == "eval" or (of == "auto" and len(self.evaluations.steps) > 1):
            return self.evaluations
        return self.episodes

    @property
    def score(self) -> float:
        """Return the mean return of the last evaluation, or of the last training episodes; NaN without either."""
        if len(self.evaluations.values):
            return float(self.evaluations.values[-1])
        last = self.episodes.values[-LAST_EPISODES:]
        return float(np.mean(last)) if len(last) else math.nan

    @property
    def hours(self) -> float:
        """Return the wall time of the run until its last result; NaN if it is unknown."""
        times = [curve.seconds[-1] for curve in (self.episodes, self.evaluations) if len(curve.seconds)]
        return max(times) / 3600 if times else math.nan


class RunResults(Results):
    """Results of a run of this program.

    Args:
        run: the run.
    """

    def __init__(self, run: FoundRun) -> None:
        """Store the run; its files are read when they are needed."""
        super().__init__(run.name, run.folder)
        self.run = run

    @cached_property
    def tree(self) -> dict[str, Any]:
        """Return the configuration."""
        return read_config(self.folder)

    def value_of(self, key: str) -> Any:
        """Return a setting, None if the configuration has no such key."""
        return self.run.listed(key) if self.run.has_listed(key) else get_value(self.tree, key)

    @cached_property
    def episodes(self) -> Curve:
        """Return the returns of training episodes; of window means for runs without `episodes.jsonl`."""
        lines = read_lines(self.folder / EPISODES)
        if lines:
            return _curve(lines, "return")
        return _curve([line for line in self.metrics if "Rewards/rew_avg" in line], "Rewards/rew_avg")

    @cached_property
    def evaluations(self) -> Curve:
        """Return the mean returns of evaluations."""
        lines = read_lines(self.folder / EVALUATIONS)
        if lines:
            return _curve(sorted(lines, key=lambda line: line["step"]), "mean")
        return _curve([line for line in self.metrics if EVAL_TAGS[0] in line], EVAL_TAGS[0])

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of metrics."""
        return [line for line in read_lines(self.folder / METRICS) if "event" not in line]


class MonitorResults(Results):
    """Results in a `monitor.csv` of Stable-Baselines3, or in those of several environments of one run."""

    @cached_property
    def episodes(self) -> Curve:
        """Return the returns of training episodes. Steps are summed over the environments, in the order of time."""
        rows = sorted(row for path in monitor_files(self.folder) for row in _monitor_rows(path))
        seconds, returns, lengths = np.array(rows, float).reshape(-1, 3).T
        return Curve(np.cumsum(lengths), seconds, returns)

    @property
    def evaluations(self) -> Curve:
        """Return no evaluation."""
        return _curve([], "")


class EventResults(Results):
    """Results in TensorBoard events of any program."""

    @cached_property
    def scalars(self) -> dict[str, list[tuple[int, float, float]]]:
        """Return step, time and value of all scalars by tag."""
        return read_events(self.folder)

    @cached_property
    def episodes(self) -> Curve:
        """Return the returns of training episodes, under the first known tag."""
        return self._of(EPISODE_TAGS)

    @cached_property
    def evaluations(self) -> Curve:
        """Return the mean returns of evaluations, under the first known tag."""
        return self._of(EVAL_TAGS)

    def _of(self, tags: Sequence[str]) -> Curve:
        """Return the curve of the first tag that exists."""
        points = next((self.scalars[tag] for tag in tags if tag in self.scalars), [])
        began = min((all_points[0][1] for all_points in self.scalars.values()), default=0.0)
        steps, times, values = np.array(sorted(points), float).reshape(-1, 3).T
        return Curve(steps, times - began, values)


def select(words: Iterable[str], by_default: str | None = None) -> list[Results]:
    """Return the results that the words name, each once and in order.

    Args:
        words: names of runs, folders and files.
        by_default: the word that stands for no words; None for all runs of the working folder.

    Raises:
        ConfigError: a word names nothing.
    """
    found: dict[Path, Results] = {}
    mistakes = []
    for word in list(words) or ([by_default] if by_default else []):
        named = list(_named(word))
        if not named:
            mistakes += _without_results(word).mistakes
        found |= {each.folder: each for each in named}
    if mistakes:
        raise ConfigError(mistakes)
    if not found and by_default is None:
        found = {run.folder: RunResults(run) for run in find_runs()}
    if not found:
        raise ConfigError(["no run is here; run the command in the folder that contains logs, or name a folder"])
    return list(found.values())


def _without_results(word: str) -> ConfigError:
    """Return the mistake of a word that names no results."""
    if word.startswith(TAG):
        return ConfigError([f"{word}: no run has this word in run.tags; sheeprl ls shows the tags"])
    if word in (LAST, BEST) or not Path(word).expanduser().exists():
        return unknown(word)
    return ConfigError([f"{word}: contains no results; use a run of sheeprl ls or a folder that contains runs"])


def _named(word: str) -> Iterator[Results]:
    """Yield the results that a word names."""
    path = Path(word).expanduser()
    if is_stored(word):
        yield from map(RunResults, find_runs(word))
    elif word in (LAST, BEST):
        if runs := find_runs():
            yield RunResults(run_of_word(word, runs))
    elif word.startswith(TAG):
        tag = word.removeprefix(TAG)
        yield from (RunResults(run) for run in find_runs() if tag in (run.listed("run.tags") or ()))
    elif path.is_file():
        yield MonitorResults(str(word), path.resolve(), _monitor_settings(path))
    elif path.is_dir():
        yield from _in_folder(word, path)
    elif word:
        yield from map(RunResults, matching_runs(word))


def _in_folder(word: str, path: Path) -> Iterator[Results]:
    """Yield the results in a folder: its runs, or those of another program."""
    runs = find_runs(str(path))
    if runs or is_run(path):
        yield from map(RunResults, runs)
    elif files := monitor_files(path):
        yield MonitorResults(word, path.resolve(), _monitor_settings(files[0]))
    else:
        for folder in sorted({file.parent for file in path.rglob(EVENTS)}):
            name = word if folder == path else str(Path(word) / folder.relative_to(path))
            yield EventResults(name, folder.resolve())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines, without an incomplete last one; empty without the file."""
    try:
        content = path.read_bytes()
    except OSError:
        return []
    lines = content.split(b"\n")
    try:
        return [json.loads(line) for line in lines[:-1] if line]
    except ValueError as error:
        raise ConfigError([f"{path}: isn't valid JSON: {error}"]) from error


def _curve(lines: Sequence[dict[str, Any]], key: str) -> Curve:
    """Return the curve of a key in lines of JSON; a null is NaN."""
    columns = [[math.nan if line[name] is None else line[name] for line in lines] for name in ("step", "time", key)]
    return Curve(*(np.array(column, float) for column in columns))


def monitor_files(path: Path) -> list[Path]:
    """Return the monitor files of a path: itself, or those in the folder."""
    return [path] if path.is_file() else sorted(path.glob("*monitor.csv"))


def _monitor_settings(path: Path) -> dict[str, Any]:
    """Return the settings in the header of a monitor file.

    Raises:
        ConfigError: the file isn't one.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.readline()
    try:
        header = json.loads(first.removeprefix("#"))
    except ValueError:
        header = None
    if not isinstance(header, dict) or "t_start" not in header:
        raise ConfigError([f"{path}: isn't a monitor.csv of Stable-Baselines3, whose first line has t_start"])
    return {"env.id": header.get("env_id"), "algo.name": "Stable-Baselines3"}


def _monitor_rows(path: Path) -> Iterator[tuple[float, float, float]]:
    """Yield seconds, return and length of each episode in a monitor file."""
    with path.open(encoding="utf-8", newline="") as file:
        file.readline()
        rows = csv.DictReader(file)
        try:
            yield from ((float(row["t"]), float(row["r"]), float(row["l"])) for row in rows)
        except (KeyError, TypeError, ValueError) as error:
            at = rows.line_num + 1
            raise ConfigError([f"{path}: line {at}: needs numbers in the columns r, l and t"]) from error


def read_events(folder: Path) -> dict[str, list[tuple[int, float, float]]]:
    """Return step, time and value of the scalars in the event files of a folder, by tag.

    A restart drops the later steps, as TensorBoard does.
    """
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util import tensor_util

    scalars: dict[str, list[tuple[int, float, float]]] = {}
    for path in sorted(folder.glob(EVENTS)):
        for event in EventFileLoader(str(path)).Load():
            if event.HasField("session_log"):
                scalars = {tag: [at for at in points if at[0] < event.step] for tag, points in scalars.items()}
            for value in event.summary.value:
                if value.HasField("tensor") and value.metadata.plugin_data.plugin_name == "scalars":
                    number = float(tensor_util.make_ndarray(value.tensor).item())
                    scalars.setdefault(value.tag, []).append((event.step, event.wall_time, number))
    return {tag: points for tag, points in scalars.items() if points}
