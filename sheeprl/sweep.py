"""Train a configuration with all combinations of several values, several runs at a time, as Ray tasks.

Each combination has a run folder. The same command continues an interrupted sweep: it skips finished runs
and resumes begun ones from their newest checkpoint. The worker processes are reused, so later runs skip the imports.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sheeprl.checkpoint.resume import ORIGINS
from sheeprl.checkpoint.run_dir import base_folder
from sheeprl.checkpoint.runs import FoundRun
from sheeprl.config.bases import locate
from sheeprl.config.defaults import cluster_address, fill_in
from sheeprl.config.loading import apply_overrides, get_value, inspect, validate
from sheeprl.config.schema import Tree
from sheeprl.results.reading import RunResults
from sheeprl.series import check_folder, is_finished, train_or_resume
from sheeprl.utils.errors import ConfigError, RunFailedError, describe, one_line

RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
MOST_RUNS = 10_000
ENDED = "is finished"


@dataclass(frozen=True)
class Planned:
    """Run of a sweep.

    Args:
        label: the varied settings, such as `env.id=CartPole-v1,run.seed=0`.
        tree: its settings.
        folder: its folder.
    """

    label: str
    tree: Tree
    folder: Path

    @property
    def is_finished(self) -> bool:
        """Return True if an earlier call has finished the run."""
        return is_finished(self.tree, self.folder)


@dataclass(frozen=True)
class Outcome:
    """End of a run of a sweep.

    Args:
        label: the varied settings.
        status: `done`, `interrupted` or `failed`.
        text: the mean return of the last evaluation, else of training episodes, or the cause of a failure.
    """

    label: str
    status: str
    text: str


def values_of(text: str) -> list[str]:
    """Return the values in the text of a setting: a range such as `0..9`, or parts between commas outside brackets.

    Raises:
        ConfigError: a range is empty.
    """
    if match := RANGE.fullmatch(text):
        first, last = int(match[1]), int(match[2])
        if last < first:
            raise ConfigError([f"{text}: is an empty range; use {last}..{first}"])
        return [str(number) for number in range(first, last + 1)]
    parts, depth, part = [], 0, ""
    for letter in text:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += letter
    return [*parts, part]


def plan(tree: Tree, varied: Mapping[str, Sequence[str]], folder: Path) -> list[Planned]:
    """Return one run per combination.

    Args:
        tree: settings that all runs share.
        varied: the values by dotted key.
        folder: folder of the sweep.

    Raises:
        ConfigError: a combination has mistakes; each mistake is listed once.
    """
    count = math.prod(len(values) for values in varied.values())
    if count > MOST_RUNS:
        raise ConfigError([f"the sweep has {count:,} runs; use fewer values, at most {MOST_RUNS:,} runs"])
    runs, mistakes = [], []
    for combination in itertools.product(*varied.values()):
        settings = [f"{key}={value}" for key, value in zip(varied, combination, strict=True)]
        label = ",".join(settings) or "run"
        own = copy.deepcopy(tree)
        apply_overrides(own, settings)
        target = folder / re.sub(r"[^\w.=,+-]", "_", label)
        own.setdefault("run", {}).update(dir=str(target))
        if get_value(own, "run.mode") not in (None, "coupled"):
            mistakes.append("run.mode=decoupled: a run of a sweep has one process; leave it out")
        mistakes += [
            f"{key}={origin}: the newest run changes during a sweep; use the folder of the run"
            for key in ORIGINS
            if str(origin := get_value(own, key)).startswith("@")
        ]
        own["run"]["mode"] = "coupled"
        own.setdefault("trainer", {}).setdefault("threads", 1)
        mistakes += locate(inspect(own)[1], own)
        runs.append(Planned(label, own, target))
    if mistakes := list(dict.fromkeys(mistakes)):
        raise ConfigError(mistakes)
    if len({run.folder for run in runs}) < len(runs):
        raise ConfigError(
            ["two values of the sweep give the same folder name; use values that differ in letters or digits"]
        )
    return runs


def sweep_folder(name: str, varied: Mapping[str, Sequence[str]], out: str | None) -> Path:
    """Return the folder of a sweep: `out`, or one below `logs/sweeps` that the varied settings name."""
    label = "_".join([Path(name).stem, *varied])
    return base_folder() / Path(out or f"logs/sweeps/{re.sub(r'[^A-Za-z0-9_.-]', '_', label)}").expanduser()


def check_sweep(folder: Path, tree: Tree, varied: Mapping[str, Sequence[str]]) -> None:
    """Check that an earlier sweep in a folder had the same settings, except the values that vary and the policy steps.

    Raises:
        ConfigError: it had others, so its runs aren't those of this sweep.
    """
    common = copy.deepcopy(dict(tree))
    for key in (*varied, "run.total_steps"):
        section, _, name = key.partition(".")
        if isinstance(common.get(section), dict):
            common[section].pop(name, None)
    check_folder(folder / "sweep.json", common)


def sweep(
    runs: Sequence[Planned], cpus: float = 1.0, jobs: int | None = None, say: Callable[[str], None] = print
) -> list[Outcome]:
    """Train all runs that aren't finished, and return their ends.

    Args:
        runs: the runs.
        cpus: cores of each run; with 0.5, two runs share a core.
        jobs: most runs at a time; None for as many as there are cores.
        say: called with a line for each run that ends.

    Raises:
        RunFailedError: Ray can't be started or joined.
    """
    waiting = [run for run in runs if not run.is_finished]
    outcomes = [Outcome(run.label, "done", ENDED) for run in runs if run.is_finished]
    if outcomes:
        say(f"{len(outcomes)} of {len(runs)} runs are finished already")
    if waiting:
        outcomes += _train_all(waiting, cpus, jobs, say)
    return outcomes


def _train_all(waiting: list[Planned], cpus: float, jobs: int | None, say: Callable[[str], None]) -> list[Outcome]:
    """Train the runs as Ray tasks."""
    began = _start_ray(waiting[0].tree)
    import ray  # after its variables are set

    task = ray.remote(num_cpus=cpus, max_retries=0)(train_one)
    left, outcomes = list(reversed(waiting)), []
    running: dict[Any, Planned] = {}
    most = jobs or len(waiting)  # Ray starts as many as the cores permit
    try:
        while left or running:
            while left and len(running) < most:
                planned = left.pop()
                running[task.remote(planned.tree, str(planned.folder), sys.argv)] = planned
            (reference, *_), _ = ray.wait(list(running), num_returns=1)
            planned = running.pop(reference)
            outcome = _outcome(planned, reference)
            outcomes.append(outcome)
            say(f"{len(outcomes)}/{len(waiting)}  {outcome.label}: {outcome.status}, {outcome.text}")
        return outcomes
    finally:
        for reference in running:
            ray.cancel(reference)  # acts like Ctrl-C: the run saves a checkpoint
        ray.wait(list(running), num_returns=len(running), timeout=30) if running else None
        if began:
            ray.shutdown()


def _start_ray(tree: Tree) -> bool:
    """Join the cluster of RAY_ADDRESS, or start a local Ray; return False if one runs in this process.

    Args:
        tree: settings of a run, which may name the address.

    Raises:
        ConfigError: Ray can't be started with the variables of this shell.
        RunFailedError: it can't be started or joined.
    """
    from sheeprl.actors.ray import environment
    from sheeprl.actors.ray.tasks import start_ray

    config = fill_in(validate(tree))
    if mistakes := list(environment.mistakes(config)):
        raise ConfigError(mistakes)
    return start_ray(cluster_address(config), environment.source(config))


def _outcome(planned: Planned, reference: Any) -> Outcome:
    """Return the end of a run from the reference of its task."""
    import ray

    try:
        status, text = ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # an exception that no user of the command line would cause
        return Outcome(planned.label, "failed", describe(error.cause))
    except Exception as error:
        return Outcome(planned.label, "failed", f"its process died: {one_line(error)}")
    return Outcome(planned.label, status, text)


def train_one(tree: Tree, folder: str, command: Sequence[str]) -> tuple[str, str]:
    """Train one run of a sweep, or resume it, in this process; return its status and a text.

    Args:
        tree: settings of the run.
        folder: its folder.
        command: the command of the sweep, which `run.json` records.
    """
    sys.argv = list(command)
    path = Path(folder)
    try:
        result = train_or_resume(tree, path)
    except ConfigError as error:
        return "failed", error.mistakes[0]
    except (RunFailedError, OSError) as error:
        return "failed", one_line(error)
    status = "done" if result.interrupted_by is None else "interrupted"
    return status, f"{score_text(path)} after {result.policy_steps:,} policy steps"


def score_text(folder: Path) -> str:
    """Return the score of a run, as `sheeprl compare` has it: of its last evaluation, else of training episodes."""
    results = RunResults(FoundRun(folder, 0.0))
    if math.isnan(results.score):
        return "no episode ended"
    return f"{'evaluation' if len(results.evaluations.values) else 'training'} return {results.score:.2f}"
