"""Publish the state of a run in its Ray cluster: an entry for `sheeprl status`, and metrics for Prometheus.

A thread does it every few seconds, so the driver only hands over its newest values. An entry is sent again each time.
So an update that fails, such as during a restart of the control store, is repaired by the next one.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from sheeprl.config.schema import Config
from sheeprl.metrics.display import Progress
from sheeprl.metrics.ray_metrics import RayMetrics
from sheeprl.metrics.reporter import Reporter
from sheeprl.metrics.run_entry import FAILED, NAMESPACE, RUNNING, STARTING, RunEntry
from sheeprl.metrics.summary import STATUS_NAMES

INTERVAL = 5.0  # seconds between two updates
PATIENCE = 5.0  # seconds to wait for the last update
RETENTION = 7 * 24 * 3600.0  # seconds for which the entry of an ended run stays


class RunPublisher:
    """Publish one run from a thread. This process must be connected to Ray.

    Args:
        config: the run's configuration, resolved.
        run_dir: folder of the run.
        interval: seconds between two updates.
    """

    def __init__(self, config: Config, run_dir: Path, interval: float = INTERVAL) -> None:
        """Describe the run; `start` publishes it."""
        import ray

        self._run, self._interval = str(run_dir), interval
        self._algorithm, self._environment = config.algo.name, config.env.id
        self._since = time.time()
        self._node, self._job = socket.gethostname(), ray.get_runtime_context().get_job_id()
        self._state = STARTING
        self._progress = Progress(0, config.run.total_steps, 0, None, 0, config.num_players)
        self._values: Mapping[str, float] = {}
        self._checkpoint: float | None = None
        tags = {"run": self.entry().name, "algorithm": self._algorithm, "environment": self._environment}
        self._metrics = RayMetrics(tags)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="run publisher", daemon=True)

    def start(self) -> None:
        """Publish the run, now and at intervals."""
        self._thread.start()

    def observe(self, reporter: Reporter) -> Reporter:
        """Return a reporter that also publishes what it is given."""
        self._state = RUNNING
        return _PublishingReporter(reporter, self)

    def progress(self, progress: Progress) -> None:
        """Take the newest progress."""
        self._progress = progress
        if progress.checkpoint_age is not None:
            self._checkpoint = time.time() - progress.checkpoint_age

    def metrics(self, values: Mapping[str, float]) -> None:
        """Take the values of a metrics line; keys that a later line omits stay."""
        self._values = {**self._values, **values}

    def end(self, state: str) -> None:
        """Take the state in which the run ended."""
        self._state = state

    def close(self) -> None:
        """Publish the last state and end the thread. A run without an end event has failed."""
        if not self.entry().has_ended:
            self._state = FAILED
        self._closing.set()
        self._thread.join(PATIENCE)

    def entry(self) -> RunEntry:
        """Return the entry of the run."""
        progress = self._progress
        return RunEntry(
            run=self._run,
            algorithm=self._algorithm,
            environment=self._environment,
            state=self._state,
            since=self._since,
            updated=time.time(),
            node=self._node,
            job=self._job,
            policy_steps=progress.policy_steps,
            total_steps=progress.total_steps,
            gradient_steps=progress.gradient_steps,
            mean_return=progress.mean_return,
            players_alive=progress.players_alive,
            players=progress.players,
            checkpoint=self._checkpoint,
        )

    def _work(self) -> None:
        """Publish at intervals until the run ends."""
        with suppress(Exception):
            _remove_old()
        while not self._closing.is_set():
            self._publish()
            self._closing.wait(self._interval)
        self._publish()

    def _publish(self) -> None:
        """Publish once. A failure must not end the run, and the next update repairs it."""
        from sheeprl.actors.ray import internals

        with suppress(Exception):
            self._metrics.update(self._progress, self._values)
            internals.store_value(NAMESPACE, self._run, self.entry().to_json())


def _remove_old() -> None:
    """Remove the entries of runs that ended long ago."""
    from sheeprl.actors.ray import internals

    for key, text in internals.stored_values(NAMESPACE).items():
        entry = RunEntry.from_json(text)
        if entry is None or (entry.has_ended and time.time() - entry.updated > RETENTION):
            internals.remove_value(NAMESPACE, key)


class _PublishingReporter:
    """Reporter that also publishes progress, metrics and the end of the run."""

    def __init__(self, reporter: Reporter, publisher: RunPublisher) -> None:
        """Store both."""
        self._reporter, self._publisher = reporter, publisher
        self.message, self.close = reporter.message, reporter.close

    def progress(self, progress: Progress) -> None:
        """Show and publish the progress."""
        self._reporter.progress(progress)
        self._publisher.progress(progress)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Write and publish the metrics of a policy step."""
        self._reporter.metrics(step, values)
        self._publisher.metrics(values)

    def event(self, name: str, /, **values: float | str | None) -> None:
        """Write an event, and publish the end."""
        self._reporter.event(name, **values)
        if name == "end":
            self._publisher.end(STATUS_NAMES.get(str(values.get("status")), FAILED))
