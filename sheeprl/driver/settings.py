"""What a run is asked to do, as far as its driver needs to know, and where it gets its time from."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

from sheeprl.algos.args import OffPolicy, OnPolicy
from sheeprl.metrics.time_breakdown import Setting


class Clock(Protocol):
    """Where the run gets its time from."""

    def time(self) -> float:
        """Seconds since some moment."""
        ...


class WallClock:
    """Real time."""

    def time(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()


@dataclass(frozen=True)
class Plan:
    """What the run is asked to do; the numbers of the configuration that concern the driver.

    Args:
        data: how the algorithm reads what was collected.
        total_steps: policy steps.
        players: K.
        fragment_rows: rows of a fragment.
        envs: environments of a player.
        max_staleness: versions that a fragment may lag behind.
        prefetch: chunks of batches requested ahead.
        max_failures: failures of one player, of one shard or of the trainers within `failure_window` before giving up,
            and refused fragments in a row of one player.
        failure_window: seconds.
        log_every: policy steps between lines of metrics; the others likewise, None for never.
        snapshot_every: policy steps between snapshots of the trainers, from which a lost group goes on.
        checkpoint_seconds: seconds between checkpoints, besides those by policy steps.
        eval_episodes: episodes of an evaluation.
        setting: what is said of the run's speed leans on it, and nothing else does.
    """

    data: OnPolicy | OffPolicy
    total_steps: int
    players: int
    fragment_rows: int
    max_staleness: int
    envs: int = 1
    prefetch: int = 1
    max_failures: int = 3
    failure_window: float = 600.0
    log_every: int = 1000
    snapshot_every: int | None = None
    checkpoint_every: int | None = None
    checkpoint_seconds: float | None = None
    eval_every: int | None = None
    eval_episodes: int = 0
    setting: Setting = field(default_factory=Setting)

    @property
    def round_rows(self) -> int:
        """Rows of a round, which are the most policy steps that it can bring."""
        return self.players * self.fragment_rows * self.envs
