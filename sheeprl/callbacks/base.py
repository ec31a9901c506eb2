"""Functions that a run calls at the border between two rounds.

This module imports neither torch nor Ray.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sheeprl.actors.evaluation import Evaluation
from sheeprl.metrics.counters import Episode, RunStats
from sheeprl.utils.errors import RunFailedError, describe

if TYPE_CHECKING:
    from sheeprl.config.schema import Config

__all__ = ["Callback", "Callbacks", "Episode", "RunView"]


@dataclass
class RunView:
    """State of a run, and the requests that a callback can make.

    Args:
        config: configuration of the run.
        run_dir: folder of the run.
        stats: counters and metrics.
        time: returns the seconds of the run, including those before a resume.
        message: shows a message, given its text and its level.
        request_stop: stops the run after the round, which then saves a checkpoint.
        change_env: sets attributes of the environments, given their values by name.
    """

    config: Config
    run_dir: Path
    stats: RunStats
    time: Callable[[], float]
    message: Callable[..., None]
    request_stop: Callable[[], None]
    change_env: Callable[[dict[str, Any]], None] = lambda values: None
    stopped_by: str | None = None

    @property
    def policy_steps(self) -> int:
        """Return the policy steps until now."""
        return self.stats.counters.policy_steps

    @property
    def gradient_steps(self) -> int:
        """Return the gradient steps until now."""
        return self.stats.counters.gradient_steps

    @property
    def total_steps(self) -> int:
        """Return `run.total_steps`."""
        return self.config.run.total_steps

    @property
    def mean_return(self) -> float | None:
        """Return the mean return of the newest training episodes, None before the first one ends."""
        return self.stats.mean_return

    @property
    def env(self) -> dict[str, Any]:
        """Return `env.kwargs`, with the attributes of the environments that `set_env` has set."""
        return dict(self.config.env.kwargs) | self.stats.env_changes.newest

    def set_env(self, **values: Any) -> None:
        """Set attributes of all environments from a border between two rounds on, also those of evaluations.

        Raises:
            ValueError: a checkpoint can't store a value.
        """
        old = self.stats.env_changes.newest
        if new := {name: value for name, value in values.items() if name not in old or old[name] != value}:
            self.change_env(new)
            self.message("environments: " + ", ".join(f"{name}={value}" for name, value in new.items()))

    def stop(self, reason: str) -> None:
        """Stop the run after this round, and save a checkpoint."""
        if self.stopped_by is None:
            self.stopped_by = reason
            self.message(f"the run stops: {reason}")
            self.request_stop()


class Callback:
    """Base class of callbacks. Override the methods that you need; all others do nothing.

    The driver calls them at the border between two rounds, in the order of `run.callbacks`. Slow methods delay the run.
    An exception fails the run after a checkpoint.

    Attributes:
        writes_run_files: True for callbacks that write the run's own files. Their OSError, such as that of a full disk,
            ends the run like one of its metrics.
    """

    writes_run_files: bool = False

    def mistakes(self, config: Config) -> Iterable[str]:
        """Return a line for each reason why the callback can't serve a run; none by default."""
        return ()

    def on_start(self, run: RunView) -> None:
        """React to the start or the resume of a run, before its first round."""

    def on_round(self, run: RunView) -> None:
        """React to the end of a round: its gradient steps are taken, its weights are published."""

    def on_metrics(self, run: RunView, step: int, values: Mapping[str, float]) -> None:
        """React to a line of metrics.

        Args:
            run: the run.
            step: policy steps at the line.
            values: metrics by name, as in `metrics.jsonl`.
        """

    def on_episode(self, run: RunView, episode: Episode) -> None:
        """React to the end of a training episode."""

    def on_evaluation(self, run: RunView, result: Evaluation) -> None:
        """React to an evaluation; `result.policy_steps` are those of its weights."""

    def on_checkpoint(self, run: RunView, path: Path) -> None:
        """React to a complete checkpoint.

        Args:
            run: the run.
            path: folder of the checkpoint.
        """

    def on_end(self, run: RunView, status: str) -> None:
        """React to the end of the run.

        Args:
            run: the run.
            status: `done`, `interrupted` or `failed`.
        """


@dataclass
class Callbacks:
    """Callbacks of a run, and the events that wait for the next border.

    Args:
        callbacks: the callbacks, in the order of their calls.
        run_dir: folder of the run.
    """

    callbacks: Sequence[Callback] = ()
    run_dir: Path = Path()
    view: RunView | None = None
    _waiting: list[tuple[str, Any]] = field(default_factory=list)

    def bind(self, view: RunView) -> None:
        """Set the run that the callbacks get."""
        self.view = view

    @property
    def stopped_by(self) -> str | None:
        """Return why a callback stopped the run, None if none did."""
        return self.view.stopped_by if self.view else None

    def post(self, event: str, *values: Any) -> None:
        """Store an event for the next border."""
        self._waiting.append((event, values))

    def dispatch(self) -> None:
        """Call the callbacks with all events that wait.

        Raises:
            RunFailedError: a callback raised.
        """
        while self._waiting:
            event, values = self._waiting.pop(0)
            self.call(event, *values)
            if event == "on_evaluation" and self.view is not None:
                self.view.stats.evaluating.remove(values[0].policy_steps)  # its result is on file

    def call(self, event: str, *values: Any) -> None:
        """Call one method of all callbacks.

        Raises:
            RunFailedError: a callback raised.
        """
        for callback in self.callbacks:
            self._call(callback, event, *values)

    def end(self, status: str) -> None:
        """Deliver the last events and call `on_end` of every callback, also after one raised.

        Raises:
            RunFailedError: a callback raised.
        """
        with ExitStack() as stack:
            for callback in reversed(self.callbacks):
                stack.callback(self._call, callback, "on_end", status)
            self.dispatch()

    def _call(self, callback: Callback, event: str, *values: Any) -> None:
        """Call one method of one callback.

        Raises:
            RunFailedError: it raised.
        """
        try:
            getattr(callback, event)(self.view, *values)
        except RunFailedError:
            raise
        except Exception as error:
            if callback.writes_run_files and isinstance(error, OSError):  # such as a full disk, as for the metrics
                raise
            name = f"{type(callback).__name__}.{event}()"
            raise RunFailedError(f"{name} raised {describe(error)}", traceback.format_exc()) from error
