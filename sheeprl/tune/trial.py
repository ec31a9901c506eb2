"""Train the seeds of one trial."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sheeprl.callbacks.base import Callback, RunView
from sheeprl.callbacks.records import EPISODES, EVALUATIONS
from sheeprl.config.loading import get_value
from sheeprl.config.schema import Tree
from sheeprl.metrics.counters import RECENT
from sheeprl.series import is_finished, train_or_resume
from sheeprl.tune.search import METRICS, Search
from sheeprl.utils.errors import ConfigError, RunFailedError

if TYPE_CHECKING:
    from sheeprl.actors.evaluation import Evaluation


class _Reporter(Callback):
    """Report the score of a trial while one of its seeds trains.

    Args:
        metric: name of the metric.
        finished: scores of the seeds before.
        steps: policy steps of the seeds before.
        report: called with the score and the policy steps.
    """

    def __init__(
        self, metric: str, finished: Sequence[float], steps: int, report: Callable[[float, int], None]
    ) -> None:
        """Store the arguments."""
        self.metric, self.finished, self.steps, self.report = metric, list(finished), steps, report

    def on_evaluation(self, run: RunView, result: Evaluation) -> None:
        """Report the mean return of an evaluation."""
        if self.metric == METRICS[0] and result.policy_steps < run.total_steps:  # the last one counts at the end
            self._send(result.mean_return, result.policy_steps)

    def on_metrics(self, run: RunView, step: int, values: Mapping[str, float]) -> None:
        """Report the mean return of training episodes."""
        if self.metric == METRICS[1] and run.mean_return is not None and step < run.total_steps:
            self._send(run.mean_return, step)

    def _send(self, value: float, step: int) -> None:
        """Report the mean over the seeds."""
        scores = [*self.finished, value]
        self.report(sum(scores) / len(scores), self.steps + step)


def run_trial(search: Search, settings: Mapping[str, Any], folder: Path, report: Callable[[float, int], None]) -> None:
    """Train all seeds of a trial, and report its score; seeds that an earlier call has trained are skipped.

    Args:
        search: the search.
        settings: values of the trial.
        folder: folder of the trial.
        report: called with the score so far and the policy steps.

    Raises:
        RunFailedError: a run failed, or has no score.
    """
    finished: list[float] = []
    for number in range(search.seeds):
        own, steps = folder / f"seed_{number}", number * int(get_value(search.tree, "run.total_steps"))
        train_seed(search.seed_tree(settings, number, own), own, _Reporter(search.metric, finished, steps, report))
        finished.append(score_of(own, search.metric))
        report(sum(finished) / len(finished), (number + 1) * int(get_value(search.tree, "run.total_steps")))


def train_seed(tree: Tree, folder: Path, *callbacks: Callback) -> None:
    """Train one run of a trial, or resume it; do nothing if it is finished.

    Raises:
        RunFailedError: it failed.
    """
    if is_finished(tree, folder):
        return
    try:
        train_or_resume(tree, folder, callbacks)
    except ConfigError as error:
        raise RunFailedError(error.mistakes[0]) from error


def score_of(folder: Path, metric: str) -> float:
    """Return the score of a finished run: its last evaluation, or the mean of its last training episodes.

    Raises:
        RunFailedError: it has neither.
    """
    name, key = (EVALUATIONS, "mean") if metric == METRICS[0] else (EPISODES, "return")
    path = folder / name
    values = [json.loads(line)[key] for line in path.read_bytes().splitlines()] if path.exists() else []
    newest = values[-1:] if metric == METRICS[0] else values[-RECENT:]
    if not newest or newest[-1] is None:
        raise RunFailedError(f"{folder}: no {metric} was measured; train longer, or use another --metric")
    return float(sum(newest) / len(newest))
