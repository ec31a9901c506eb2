"""Compare groups of runs on one or several environments."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sheeprl.results.reading import Results
from sheeprl.results.statistics import (
    LEAST_RUNS,
    Estimate,
    aggregate_iqm,
    probability_of_improvement,
    smoothed,
    time_to_threshold,
)
from sheeprl.utils.errors import ConfigError

ENV = "env.id"
UNKNOWN = "?"
Groups = dict[str, dict[str, list[Results]]]
"""Results by group and environment."""


@dataclass(frozen=True)
class Row:
    """Summary of a group of runs on one environment.

    Args:
        group: name of the group.
        env: environment.
        runs: number of runs with a score.
        iqm: interquartile mean of the scores.
        mean: mean of the scores.
        best: highest score.
        hours: mean wall time of a run.
        steps_to_threshold: median policy steps until the threshold; infinite if half of the runs never reach it.
    """

    group: str
    env: str
    runs: int
    iqm: Estimate
    mean: float
    best: float
    hours: float
    steps_to_threshold: float | None = None


@dataclass(frozen=True)
class Improvement:
    """Probability that a run of one group has a higher score than a run of another one, averaged over environments."""

    better: str
    worse: str
    envs: tuple[str, ...]
    probability: Estimate


def grouped(results: Sequence[Results], by: str) -> Groups:
    """Return results by the value of a setting and by environment, in alphabetical order.

    Args:
        results: the results.
        by: settings by dotted key, separated by commas.

    Raises:
        ConfigError: no run has such a setting.
    """
    keys = [key for key in by.split(",") if key]
    for key in keys:
        if all(each.value_of(key) is None for each in results):
            raise ConfigError([f"--by {key}: no run has this setting; use a key of config.yaml, such as algo.name"])
    groups: Groups = {}
    for each in results:
        group = ", ".join(_shown(each.value_of(key)) for key in keys) or "all"
        env = str(each.value_of(ENV) or UNKNOWN)
        groups.setdefault(group, {}).setdefault(env, []).append(each)
    return {group: dict(sorted(groups[group].items())) for group in sorted(groups)}


def _shown(value: Any) -> str:
    """Return a setting as text."""
    return UNKNOWN if value is None else str(value)


def rows_of(groups: Groups, threshold: float | None = None, smooth: int = 1) -> list[Row]:
    """Return one row per group and environment.

    Args:
        groups: the runs.
        threshold: return for the time to threshold; None for none.
        smooth: number of points of a curve that are averaged for it.
    """
    rows = []
    for group, by_env in groups.items():
        for env, runs in by_env.items():
            scored = [(run, score) for run in runs if not math.isnan(score := run.score)]
            if not scored:
                continue
            scores = np.array([score for _, score in scored])
            hours = [run.hours for run, _ in scored if not math.isnan(run.hours)]
            needed = None if threshold is None else [_steps_to(run, threshold, smooth) for run, _ in scored]
            rows.append(
                Row(
                    group,
                    env,
                    len(scored),
                    aggregate_iqm([scores]),
                    float(scores.mean()),
                    float(scores.max()),
                    float(np.mean(hours)) if hours else math.nan,
                    None if needed is None else float(np.median(needed)),
                )
            )
    if not rows:
        raise ConfigError(["no run has an evaluation or a finished episode yet"])
    return rows


def _steps_to(run: Results, threshold: float, smooth: int) -> float:
    """Return the policy steps until a run's curve reaches a threshold."""
    curve = run.curve("auto")
    values = curve.values if len(run.evaluations.steps) > 1 else smoothed(curve.values, smooth)
    return time_to_threshold(curve.steps, values, threshold)


def improvements(groups: Groups) -> list[Improvement]:
    """Return the probability of improvement of each pair of groups, on the environments of both."""
    found = []
    for one, other in itertools.combinations(groups, 2):
        envs = tuple(env for env in groups[one] if env in groups[other])
        pairs = {env: (_scores(groups[one][env]), _scores(groups[other][env])) for env in envs}
        pairs = {env: pair for env, pair in pairs.items() if len(pair[0]) and len(pair[1])}
        if pairs:
            better, worse = ([pair[side] for pair in pairs.values()] for side in (0, 1))
            found.append(Improvement(one, other, tuple(pairs), probability_of_improvement(better, worse)))
    return found


def _scores(runs: Sequence[Results]) -> np.ndarray[Any, Any]:
    """Return the scores of runs that have one."""
    scores = np.array([run.score for run in runs])
    return np.asarray(scores[~np.isnan(scores)])


# ------------------------------------------------------------------------------------------- as text


def interval(estimate: Estimate, digits: int = 1) -> str:
    """Return an estimate with its interval as text; without the interval if there is none."""
    value = f"{estimate.value:.{digits}f}"
    return f"{value} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]" if estimate.has_interval else value


def notes(rows: Sequence[Row], pairs: Sequence[Improvement]) -> list[str]:
    """Return a line for each reason why an estimate has no interval."""
    found = []
    counts = {(row.group, row.env): row.runs for row in rows}
    few = list(dict.fromkeys(row.group for row in rows if row.runs < LEAST_RUNS))
    if few:
        found.append(
            f"too few runs for an interval: {', '.join(few)}; an interval requires {LEAST_RUNS} runs per environment, "
            "a probability as many of both groups"
        )
    certain = [
        pair.probability.value
        for pair in pairs
        if not pair.probability.has_interval
        and all(counts[group, env] >= LEAST_RUNS for group in (pair.better, pair.worse) for env in pair.envs)
    ]
    if any(value in (0.0, 1.0) for value in certain):
        found.append("a probability of 0 or 1 without interval: no run of one group reaches a run of the other")
    if any(value not in (0.0, 1.0) for value in certain):
        found.append("a probability between 0 and 1 without interval: all runs of both groups have the same score")
    return found


def table(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the rows of a table, with its header."""
    with_threshold = any(row.steps_to_threshold is not None for row in rows)
    header: tuple[str, ...] = ("group", "environment", "runs", "IQM [95 %]", "mean", "best", "hours")
    lines = [header + (("steps to threshold",) if with_threshold else ())]
    for row in rows:
        cells: tuple[str, ...] = (
            row.group,
            row.env,
            str(row.runs),
            interval(row.iqm),
            f"{row.mean:.1f}",
            f"{row.best:.1f}",
        )
        cells += ("?" if math.isnan(row.hours) else f"{row.hours:.2f}",)
        if row.steps_to_threshold is not None:
            steps = row.steps_to_threshold
            cells += ("not reached" if math.isinf(steps) else f"{steps:,.0f}",)
        lines.append(cells)
    return lines


def latex(rows: Sequence[Row]) -> str:
    """Return a LaTeX table: one line per environment, one column per group."""
    groups, envs = (list(dict.fromkeys(getattr(row, name) for row in rows)) for name in ("group", "env"))
    cells = {(row.env, row.group): row for row in rows}
    lines = [r"\begin{tabular}{l" + "r" * len(groups) + "}", r"\hline"]
    lines.append(" & ".join(["environment", *map(_escaped, groups)]) + r" \\ \hline")
    for env in envs:
        found = [cells.get((env, group)) for group in groups]
        texts = ["--" if row is None else f"{interval(row.iqm)}" for row in found]
        lines.append(" & ".join([_escaped(env), *texts]) + r" \\")
    runs = sorted({row.runs for row in rows})
    return "\n".join(
        [
            *lines,
            r"\hline",
            r"\end{tabular}",
            f"% IQM [95 % interval; none below {LEAST_RUNS} runs], {runs} runs per cell",
            "",
        ]
    )


def _escaped(text: str) -> str:
    """Return text without characters that LaTeX reads as commands."""
    return "".join("\\" + letter if letter in "_&%$#{}" else letter for letter in text)
