"""Stop a run early: at a value of a metric, or without progress."""

from __future__ import annotations

from collections.abc import Mapping

from sheeprl.actors.evaluation import Evaluation
from sheeprl.callbacks.base import Callback, RunView
from sheeprl.config.schema import EPISODE_RETURN, EVAL_RETURN, PATIENCE


class Until(Callback):
    """Stop a run once a metric reaches a value, or once the evaluations don't improve.

    Args:
        conditions: `run.until`: a value by metric, and under `patience` a number of evaluations without a better one.
    """

    def __init__(self, conditions: Mapping[str, float]) -> None:
        """Store the conditions."""
        self.targets = {name: value for name, value in conditions.items() if name != PATIENCE}
        self.patience = conditions.get(PATIENCE)
        self._seen: set[str] = set()

    def on_metrics(self, run: RunView, step: int, values: Mapping[str, float]) -> None:
        """Compare the metrics with their targets."""
        known = dict(values)
        if run.mean_return is not None:
            known[EPISODE_RETURN] = run.mean_return
        self._compare(run, known)

    def on_evaluation(self, run: RunView, result: Evaluation) -> None:
        """Compare the mean return with its target, and with earlier evaluations."""
        named = {f"eval/{name}/return": part.mean_return for name, part in result.named.items()}
        self._compare(run, {EVAL_RETURN: result.mean_return, **named})
        best = run.stats.best_evaluation
        if best is None or result.mean_return > best:
            run.stats.best_evaluation, run.stats.evaluations_since_best = result.mean_return, 0
        else:
            run.stats.evaluations_since_best += 1
        since = run.stats.evaluations_since_best
        if self.patience is not None and since >= self.patience:
            run.stop(f"run.until.patience={self.patience:g}: {since} evaluations are not better than {best:.2f}")

    def on_end(self, run: RunView, status: str) -> None:
        """Name the metrics that the run never logged."""
        for name in sorted(self.targets.keys() - self._seen - {EVAL_RETURN, EPISODE_RETURN}):
            run.message(f"run.until: the run has logged no metric {name}; metrics.jsonl has the names", "warning")

    def _compare(self, run: RunView, values: Mapping[str, float]) -> None:
        """Stop the run if a value has reached its target."""
        self._seen |= self.targets.keys() & values.keys()
        for name, target in self.targets.items():
            if name in values and values[name] >= target:
                run.stop(f"run.until: {name} is {values[name]:.4g}, its target is {target:.4g}")
