"""Count recent failures per worker and end the run when there are too many."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from sheeprl.utils.errors import RunFailedError, one_line
from sheeprl.utils.text import counted


class FailureBudget:
    """Counts recent failures per worker.

    Args:
        most: failures of one worker that are tolerated within `window`.
        window: length of the time window, in seconds.
        clock: returns the time in seconds, from any zero.
        report: called with a message and its level.
        most_node_losses: losses of one worker together with its node that are tolerated within `window`.
    """

    def __init__(
        self,
        most: int,
        window: float,
        clock: Callable[[], float],
        report: Callable[[str, str], None],
        most_node_losses: int = 100,
    ) -> None:
        """Start without failures."""
        self.most, self.window, self.clock, self.report = most, window, clock, report
        self.most_node_losses = most_node_losses
        self._failures: dict[str, deque[tuple[float, str]]] = {}  # time and reason of each failure, per worker
        self._signatures: dict[str, str] = {}  # of each worker's last failure since it worked

    def count(self, worker: str, remedy: str, error: BaseException) -> None:
        """Count a failure and report it. A loss together with the node, as at a preemption, counts separately.

        Args:
            worker: name of the worker.
            remedy: participle for the report, such as "replaced".
            error: the failure.

        Raises:
            RunFailedError: the worker failed too often, or its replacement failed or would fail in the same way. The
                message has the first reason, since later failures may be its consequences.
        """
        now = self.clock()
        with_node = bool(getattr(error, "with_node", False))
        failures = self._failures.setdefault(f"{worker} with its node" if with_node else worker, deque())
        while failures and failures[0][0] < now - self.window:
            failures.popleft()
        failures.append((now, one_line(error)))
        advice = f"; {text}" if (text := getattr(error, "advice", "")) else ""
        if getattr(error, "is_final", False):
            raise RunFailedError(f"{worker} failed: {one_line(error)}{advice}", getattr(error, "trace", "")) from error
        before, signature = self._signatures.get(worker, ""), getattr(error, "signature", "")
        self._signatures[worker] = signature
        if signature and signature == before:
            reason = f"{worker} failed again in the same way: {one_line(error)}{advice}"
            raise RunFailedError(reason, getattr(error, "trace", "")) from error
        count = len(failures)
        failed, most = "failed", self.most
        setting = f"ray.max_failures={most}"
        if with_node:
            failed, most = "was lost with its node", self.most_node_losses
            setting = f"ray.max_node_losses={most}"
        if count <= most:
            return self.report(f"{worker} {failed} and is {remedy} ({count} of {most}): {one_line(error)}", "warning")
        often = f"{failed} {counted(count, 'time')} in {self.window:g} s ({setting})"
        reason = f"{worker} {often}: {failures[0][1]}"
        raise RunFailedError(reason, getattr(error, "trace", "")) from error

    def recovered(self, worker: str) -> None:
        """Note that a worker works again, so that its next failure isn't the last one again."""
        self._signatures.pop(worker, None)
