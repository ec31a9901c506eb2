"""Metrics of a run that Ray exports to Prometheus. `cluster/grafana.json` shows them.

The values are those of the progress and of the newest metrics line. Each has the tags `run`, `algorithm` and
`environment`. This module imports Ray when `RayMetrics` is made.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sheeprl.metrics.display import Progress

TAGS = ("run", "algorithm", "environment")
Values = Mapping[str, float]


@dataclass(frozen=True)
class Metric:
    """An exported metric.

    Args:
        name: its name in Ray.
        description: its help text.
        value: returns the value, or None if there is none yet.
        is_counter: True for a total that only grows.
    """

    name: str
    description: str
    value: Callable[[Progress, Values], float | None]
    is_counter: bool = False

    @property
    def exported(self) -> str:
        """Return the name in Prometheus: Ray adds a prefix, and a suffix to counters."""
        return f"ray_{self.name}{'_total' if self.is_counter else ''}"


def _from_line(key: str) -> Callable[[Progress, Values], float | None]:
    """Return a function that reads a value of the newest metrics line."""
    return lambda progress, values: values.get(key)


def _checkpoint_time(progress: Progress, values: Values) -> float | None:
    """Return the time of the newest checkpoint in seconds since 1970."""
    return None if progress.checkpoint_age is None else time.time() - progress.checkpoint_age


METRICS = (
    Metric("sheeprl_policy_steps", "Policy steps", lambda progress, values: progress.policy_steps, True),
    Metric("sheeprl_gradient_steps", "Gradient steps", lambda progress, values: progress.gradient_steps, True),
    Metric("sheeprl_total_steps", "Policy steps at which the run ends", lambda progress, values: progress.total_steps),
    Metric("sheeprl_mean_return", "Mean return of the newest episodes", lambda progress, values: progress.mean_return),
    Metric("sheeprl_evaluation_return", "Mean return of the evaluation", _from_line("Test/cumulative_reward")),
    Metric("sheeprl_players_alive", "Players with a process", lambda progress, values: progress.players_alive),
    Metric("sheeprl_players", "Number of players", lambda progress, values: progress.players),
    Metric("sheeprl_staleness", "Policy versions that collection lags behind", _from_line("Weights/staleness")),
    Metric("sheeprl_buffer_rows", "Rows in the replay buffer", _from_line("Buffer/size")),
    Metric("sheeprl_player_idle", "Fraction of the time that players waited", _from_line("Time/player_idle")),
    Metric("sheeprl_trainer_idle", "Fraction of the time that trainers waited", _from_line("Time/trainer_idle")),
    Metric("sheeprl_player_restarts", "Replaced players", _from_line("Players/restarts"), True),
    Metric("sheeprl_trainer_restarts", "Replaced trainer groups", _from_line("Trainer/restarts"), True),
    Metric("sheeprl_shard_restarts", "Replaced replay shards", _from_line("Buffer/restarts"), True),
    Metric("sheeprl_recovery_seconds", "Seconds without a lost worker", _from_line("Time/recovery")),
    Metric("sheeprl_checkpoint_time_seconds", "Time of the newest checkpoint since 1970", _checkpoint_time),
)


class RayMetrics:
    """Set Ray's metrics of one run.

    Args:
        tags: value of each of `TAGS`.
    """

    def __init__(self, tags: Mapping[str, str]) -> None:
        """Make the gauges and counters."""
        from ray.util.metrics import Counter, Gauge

        self._instruments: dict[str, Any] = {}
        self._counted: dict[str, float] = {}  # newest value of each counter
        for metric in METRICS:
            instrument = (Counter if metric.is_counter else Gauge)(metric.name, metric.description, TAGS)
            instrument.set_default_tags(dict(tags))
            self._instruments[metric.name] = instrument

    def update(self, progress: Progress, values: Values) -> None:
        """Set all metrics that have a finite value.

        A counter holds its highest value, since a run that repeats lost steps counts back.

        Args:
            progress: newest progress of the run.
            values: newest value of each key of the metrics lines.
        """
        for metric in METRICS:
            value = metric.value(progress, values)
            if value is None or not math.isfinite(value):
                continue
            if not metric.is_counter:
                self._instruments[metric.name].set(value)
            elif (more := value - self._counted.get(metric.name, 0)) > 0:
                self._instruments[metric.name].inc(more)
                self._counted[metric.name] = value
