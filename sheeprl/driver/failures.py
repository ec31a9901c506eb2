"""Count recent failures per worker and end the run when there are too many."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from sheeprl.utils.errors import RunFailedError, one_line


class FailureBudget:
    """Counts recent failures per worker.

    Args:
        most: failures of one and the same that are borne within `window`.
        window: seconds.
        clock: seconds, from any zero.
        tell: takes a message and its level.
    """

    def __init__(self, most: int, window: float, clock: Callable[[], float], tell: Callable[[str, str], None]) -> None:
        self.most, self.window, self.clock, self.tell = most, window, clock, tell
        self._failed: dict[str, deque[tuple[float, str]]] = {}  # when and why

    def count(self, who: str, becomes: str, error: BaseException) -> None:
        """Count a failure, and say how many that makes and what becomes of who has failed.

        Raises:
            RunFailedError: it is one too many, or the next try would fail in the same way.
                It tells the first of them, of which the others may only have followed.
        """
        now = self.clock()
        failed = self._failed.setdefault(who, deque())
        while failed and failed[0][0] < now - self.window:
            failed.popleft()
        failed.append((now, one_line(error)))
        if getattr(error, "is_final", False):
            raise RunFailedError(f"{who} failed: {one_line(error)}", getattr(error, "trace", "")) from error
        if len(failed) <= self.most:
            return self.tell(f"{who} is {becomes} ({len(failed)} of {self.most}): {one_line(error)}", "warning")
        reason = f"{who} failed {len(failed)} times in {self.window:g} s (ray.max_failures={self.most}): {failed[0][1]}"
        raise RunFailedError(reason, getattr(error, "trace", "")) from error
