"""Settings of a search, their checks, and its results."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sheeprl.checkpoint.run_dir import base_folder
from sheeprl.config.defaults import fill_in
from sheeprl.config.loading import apply_overrides, get_value, inspect, validate
from sheeprl.config.schema import Tree
from sheeprl.config.yaml_io import Dumper
from sheeprl.tune.space import EXAMPLE, Choices, Range, Space, shown
from sheeprl.utils.errors import ConfigError
from sheeprl.utils.text import counted

METRICS = ("eval/return", "episode/return")
EVALUATIONS_PER_RUN = 8


@dataclass(frozen=True)
class Search:
    """Search for settings.

    Args:
        tree: settings that all trials share.
        space: what is searched, by dotted key.
        folder: folder of the search.
        metric: `eval/return` or `episode/return`.
        seeds: runs of each trial, with the seeds `run.seed`, `run.seed` + 1, …
        trials: number of trials; None for as many as the time permits.
        budget: seconds after which no trial goes on; None for no limit.
        cpus: cores of each trial.
        jobs: most trials at a time; None for as many as there are cores.
        prune: end trials early that are worse than others.
        command: the command of the search, which the `run.json` of each run records.
    """

    tree: Tree
    space: Space
    folder: Path
    metric: str = "eval/return"
    seeds: int = 1
    trials: int | None = None
    budget: float | None = None
    cpus: float = 1.0
    jobs: int | None = None
    prune: bool = True
    command: tuple[str, ...] = field(default_factory=lambda: tuple(sys.argv))

    @property
    def most_steps(self) -> int:
        """Return the policy steps of a trial that isn't pruned."""
        return self.seeds * int(get_value(self.tree, "run.total_steps"))

    def seed_tree(self, settings: Mapping[str, Any], number: int, folder: Path) -> Tree:
        """Return the settings of one seed of a trial.

        Args:
            settings: values of the trial by key.
            number: number of the seed.
            folder: folder of the run.
        """
        tree: Tree = json.loads(json.dumps(self.tree))
        apply_overrides(tree, [f"{key}={value}" for key, value in settings.items()])
        run = tree.setdefault("run", {})
        run.update(seed=(run.get("seed") or 0) + number, dir=str(folder), mode="coupled")
        tree.setdefault("trainer", {}).setdefault("threads", 1)
        tree.setdefault("log", {})["level"] = "error"
        return tree


@dataclass(frozen=True)
class Trial:
    """Trial of a search.

    Args:
        settings: values by key.
        score: mean of the metric over the seeds; None if there is none.
        policy_steps: policy steps of all of its seeds.
        status: `done`, `pruned`, `failed` or `unfinished`.
        cause: reason of a failure.
        folder: folder of its runs below that of the search, "" if it isn't known.
    """

    settings: dict[str, Any]
    score: float | None
    policy_steps: int
    status: str
    cause: str = ""
    folder: str = ""

    @property
    def label(self) -> str:
        """Return the settings for a message."""
        return ", ".join(f"{key}={shown(value)}" for key, value in self.settings.items())


def check_search(search: Search, is_limited: bool = True) -> None:
    """Check the settings of a search.

    Args:
        search: the search.
        is_limited: True if it must have a limit.

    Raises:
        ConfigError: something is wrong; the message lists all mistakes.
    """
    mistakes = []
    if not search.space:
        mistakes.append(f"nothing is searched: the algorithm declares no range; name one, as in {EXAMPLE}")
    if search.metric not in METRICS:
        mistakes.append(f"--metric {search.metric}: must be {' or '.join(METRICS)}")
    if is_limited and search.trials is None and search.budget is None:
        mistakes.append("--trials N or --budget TIME, such as 2h: one of them must limit the search")
    if get_value(search.tree, "run.mode") not in (None, "coupled"):
        mistakes.append("run.mode=decoupled: a run of a search has one process; leave it out")
    if search.metric == METRICS[0] and get_value(search.tree, "eval.episodes") == 0:
        mistakes.append(f"eval.episodes=0: {METRICS[0]} needs evaluations; use --metric {METRICS[1]}")
    if not mistakes:
        mistakes = list(dict.fromkeys(_mistakes_of_values(search)))
    if mistakes:
        raise ConfigError(mistakes)


def _mistakes_of_values(search: Search) -> Iterator[str]:
    """Yield the mistakes of the bounds and values of the space."""
    for end in ("low", "high"):
        values = {key: getattr(part, end) for key, part in search.space.items() if isinstance(part, Range)}
        settings = {key: round(value) if _is_whole(search, key) else value for key, value in values.items()}
        yield from inspect(search.seed_tree(settings, 0, search.folder))[1]
    for key, part in search.space.items():
        for text in part.texts if isinstance(part, Choices) else ():
            found = inspect(search.seed_tree({key: text}, 0, search.folder))[1]
            yield from (mistake for mistake in found if mistake.startswith((f"{key}=", f"{key}:")))


def fits(search: Search, values: Mapping[str, Any]) -> bool:
    """Return True if values of the space, by key, make a valid configuration. The check makes the environment."""
    from sheeprl.config.checks import check

    try:
        check(search.seed_tree(values, 0, search.folder))
    except ConfigError:
        return False
    return True


def _is_whole(search: Search, key: str) -> bool:
    """Return whether a searched range has whole numbers."""
    part = search.space[key]
    return isinstance(part, Range) and part.whole


def with_evaluations(tree: Tree, metric: str) -> Tree:
    """Return settings that evaluate several times in a run, unless they have `eval.every`."""
    tree = json.loads(json.dumps(tree))
    total = get_value(tree, "run.total_steps") or fill_in(validate(tree)).run.total_steps
    tree.setdefault("run", {})["total_steps"] = total
    if metric == METRICS[0] and get_value(tree, "eval.every") is None:
        tree.setdefault("eval", {})["every"] = max(1, int(total) // EVALUATIONS_PER_RUN)
    return tree


def search_folder(name: str, out: str | None) -> Path:
    """Return the folder of a search: `out`, or one below `logs/tune`."""
    label = re.sub(r"[^A-Za-z0-9_.-]", "_", Path(name).stem)
    return base_folder() / Path(out or f"logs/tune/{label}").expanduser()


def first_settings(search: Search) -> dict[str, Any]:
    """Return the given settings, or the nearest ones of the space."""
    tree = validate(search.tree).to_tree()
    first: dict[str, Any] = {}
    for key, part in search.space.items():
        value = get_value(tree, key)
        if isinstance(part, Choices):
            text = json.dumps(value)
            first[key] = text if text in part.texts else part.texts[0]
        else:
            first[key] = part.nearest(value if isinstance(value, (int, float)) else part.low)
    return first


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Return trials in the order of their scores, those with all seeds first."""
    worst = -math.inf
    return sorted(
        trials, key=lambda trial: (trial.status == "done", worst if trial.score is None else trial.score), reverse=True
    )


def write_results(search: Search, trials: Sequence[Trial], command: str) -> Path | None:
    """Write all trials to `trials.jsonl`, and the settings of the best one to `best.yaml`, and return its path.

    Args:
        search: the search.
        trials: its trials, the best one first.
        command: command line of the search, for a comment.
    """
    lines = [
        {
            "score": trial.score,
            "policy_steps": trial.policy_steps,
            "status": trial.status,
            "folder": trial.folder,
            "settings": trial.settings,
        }
        for trial in trials
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (search.folder / "trials.jsonl").write_text(text, encoding="utf-8")
    best = trials[0] if trials else None
    if best is None or best.status != "done":
        return None
    tree: Tree = json.loads(json.dumps(search.tree))
    apply_overrides(tree, [f"{key}={value}" for key, value in best.settings.items()])
    for key in ("dir", "resume"):
        tree.get("run", {}).pop(key, None)
    what = f"{get_value(tree, 'algo.name')} on {get_value(tree, 'env.id')}"
    head = (
        f"# {what}: {search.metric} {best.score:.2f} over {counted(search.seeds, 'seed')}, the best of "
        f"{counted(len(trials), 'trial')}\n# {command}, {time.strftime('%Y-%m-%d')}\n"
    )
    path = search.folder / "best.yaml"
    path.write_text(head + yaml.dump(tree, Dumper=Dumper, sort_keys=False), encoding="utf-8")
    return path
