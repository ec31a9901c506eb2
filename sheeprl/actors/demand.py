"""Decide how many hosts of players a run wants, by the time that its trainers wait for players."""

from __future__ import annotations

from collections import deque

LITTLE, MUCH = 0.05, 0.2  # parts of the time that trainers wait: below, hosts are given back; above, more are wanted
GIVE_BACK_AFTER = 180.0  # seconds for which trainers wait little
GROW_AFTER = 60.0  # seconds for which trainers wait much
LONGEST_REST = 4 * 3600.0  # seconds between a growth and the next return of hosts
LONG = 10  # times its rest: after so long, a return of hosts was right, although they are wanted again
PART = 8  # an eighth of the hosts, one at least, is given back or added at a time


class Demand:
    """The number of hosts that a run wants.

    A run wants all hosts at first. While the trainers are the bottleneck, hosts bring nothing and are given back. They
    are wanted again once the trainers wait. If that is soon after, the next return of hosts has to wait twice as long,
    so the number doesn't swing.

    Args:
        least: fewest hosts.
        most: most hosts.
    """

    def __init__(self, least: int, most: int) -> None:
        """Want all hosts."""
        self.least, self.most, self.wanted = least, most, most
        self._waits: deque[tuple[float, float]] = deque()  # time, and seconds that trainers have waited until then
        self._rest = GIVE_BACK_AFTER
        self._rests_until = float("-inf")
        self._returned_at: float | None = None  # time of the first return since the last growth

    def update(self, now: float, waited: float, there: int) -> int:
        """Return the number of hosts that the run wants now.

        Args:
            now: time in seconds.
            waited: seconds that trainers have waited for players since the run began.
            there: hosts that hold players.
        """
        self._waits.append((now, waited))
        while len(self._waits) > 1 and self._waits[1][0] <= now - GIVE_BACK_AFTER:
            self._waits.popleft()
        if self.least == self.most:
            return self.wanted
        few, many = self._waiting(now, GIVE_BACK_AFTER), self._waiting(now, GROW_AFTER)
        if few is not None and few < LITTLE and now >= self._rests_until and self.wanted > self.least:
            # Hosts that aren't there yet are the first that the run doesn't need.
            self._set(now, there if there < self.wanted else there - max(1, there // PART))
            self._returned_at = now if self._returned_at is None else self._returned_at
        elif many is not None and many > MUCH and self.wanted < self.most:
            self._note_growth(now)
            self._set(now, self.wanted + max(1, self.wanted // PART))
        return self.wanted

    def _waiting(self, now: float, seconds: float) -> float | None:
        """Return the part of the last seconds that trainers have waited, None if less is known."""
        before = [entry for entry in self._waits if entry[0] <= now - seconds]
        if not before:
            return None
        then, waited = before[-1]
        return (self._waits[-1][1] - waited) / (now - then)

    def _set(self, now: float, wanted: int) -> None:
        """Set the number, and measure its effect from now on."""
        self.wanted = min(self.most, max(self.least, wanted))
        newest = self._waits[-1]
        self._waits.clear()
        self._waits.append(newest)

    def _note_growth(self, now: float) -> None:
        """Compute the time of the next return of hosts, from how long the last one was right."""
        if self._returned_at is not None:
            was_right = now - self._returned_at > LONG * self._rest
            self._rest = GIVE_BACK_AFTER if was_right else min(2 * self._rest, LONGEST_REST)
            self._returned_at = None
        self._rests_until = now + self._rest
