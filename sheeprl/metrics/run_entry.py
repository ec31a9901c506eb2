"""Entry of a run in the control store of its Ray cluster, which `sheeprl status` lists.

This module imports neither torch nor Ray.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from sheeprl.metrics.summary import STATUS_NAMES

NAMESPACE = "sheeprl_runs"
"""Namespace of the entries in the control store."""

STARTING, RUNNING, SILENT, FAILED = "starting", "running", "silent", "failed"
ENDED = frozenset(STATUS_NAMES.values())
SILENT_AFTER = 60.0  # seconds without an update after which a live driver counts as silent


@dataclass(frozen=True)
class RunEntry:
    """State of a run. Times are in seconds since 1970.

    Args:
        run: folder of the run.
        algorithm: `algo.name`.
        environment: `env.id`.
        state: `starting`, `running`, `finished`, `stopped` or `failed`.
        since: start of the run or of its resume.
        updated: time of this entry.
        node: host name of the driver's node.
        job: id of the driver's Ray job.
        policy_steps: policy steps so far.
        total_steps: `run.total_steps`.
        gradient_steps: gradient steps so far.
        mean_return: mean return of the newest episodes; None before the first one ends.
        players_alive: players that have a process.
        players: number of players.
        checkpoint: time of the newest checkpoint of this process; None before the first one.
    """

    run: str
    algorithm: str
    environment: str
    state: str
    since: float
    updated: float
    node: str
    job: str
    policy_steps: int
    total_steps: int
    gradient_steps: int
    mean_return: float | None
    players_alive: int
    players: int
    checkpoint: float | None = None

    def to_json(self) -> str:
        """Return the entry as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> RunEntry | None:
        """Return the entry of a JSON text, None if it is damaged or of a version with other fields."""
        try:
            values: dict[str, Any] = json.loads(text)
            return cls(**values)
        except (TypeError, ValueError):
            return None

    @property
    def name(self) -> str:
        """Return the path below the folder `logs`, or the whole path if there is no such folder."""
        return self.run.rpartition("/logs/")[2]

    @property
    def has_ended(self) -> bool:
        """Return whether the driver has reported the end of the run."""
        return self.state in ENDED

    def current_state(self, live_jobs: Collection[str], now: float) -> str:
        """Return the state, which a killed or frozen driver can't report.

        Args:
            live_jobs: ids of the cluster's jobs that are alive.
            now: current time.

        Returns:
            The state of the entry; `failed` if the driver died without an end event; `silent` if the driver is alive
            and hasn't updated the entry for a minute.
        """
        if self.has_ended:
            return self.state
        if self.job not in live_jobs:
            return FAILED
        return SILENT if now - self.updated > SILENT_AFTER else self.state
