"""Decide when players return their state, so that a lost player continues and saving costs little."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sheeprl.utils.text import byte_size, counted

if TYPE_CHECKING:
    from sheeprl.actors.messages import FragmentInfo

MOST_REPEATED = 64  # fragments that a replaced player repeats
WEIGHT_BYTES = 256 * 2**20  # of the weights of repeated fragments, which the object store holds until then
STATE_BYTES = 512 * 2**20  # of the states of all players, which the driver holds
BYTES_PER_SECOND = 100e6  # at which a state is sent
SMOOTHING = 0.2  # weight of the newest fragment in the measured times
TRIED = 3  # states that are measured before saving is judged


class StateSaving:
    """Decides after which fragments the players return their state.

    All players do so after the same number of fragments, so that one doesn't wait for another.

    Args:
        players: number of players.
        cost: part of a player's time that saving may take; 0 saves none.
    """

    def __init__(self, players: int, cost: float) -> None:
        """Start without measurements."""
        self.players, self.cost = players, cost
        self.most = MOST_REPEATED
        self.why_not = "" if cost else "players.state_cost=0"  # reason why no state is saved, "" if states are saved
        self.measured = 0
        self._fragment = self._state = 0.0  # seconds, smoothed
        self._bytes = 0
        self._unsaved: set[int] = set()

    @property
    def interval(self) -> int:
        """Return the number of fragments from one state of a player to the next."""
        return min(self.most, self._affordable)

    @property
    def _affordable(self) -> int:
        """Return the number of fragments after which the next state is within the cost."""
        return max(1, math.ceil(self._state / (self.cost * self._fragment))) if self._fragment else 1

    def limit(self, network_bytes: int) -> None:
        """Limit the repeated fragments by the size of the networks."""
        if network_bytes:
            self.most = min(MOST_REPEATED, max(1, WEIGHT_BYTES // network_bytes))

    def can_save(self, number: int) -> bool:
        """Return True if the state of a player may be saved."""
        return not self.why_not and number not in self._unsaved

    def wants(self, number: int, answered: int) -> bool:
        """Return True if a player returns its state with its next fragment.

        At first, only the last player does: it finds out if its environments can be saved, which can take seconds.

        Args:
            number: number of the player.
            answered: fragments since its last state.
        """
        if not self.can_save(number):
            return False
        if not self.measured:
            return number == self.players - 1
        return answered + 1 >= self.interval

    def note(self, number: int, info: FragmentInfo) -> str:
        """Note the times of a fragment.

        Returns:
            A message about the decision, if there is one.
        """
        if self.why_not:
            return ""
        self._fragment = _smoothed(self._fragment, info.seconds)
        if info.state is None:
            return ""
        self.measured += 1
        if info.unsaved:  # the first player's reason may come from recording its episodes
            self._unsaved.add(number)
            self.why_not = info.unsaved if number == self.players - 1 else ""
            return ""
        self._bytes = max(self._bytes, len(info.state))
        self._state = _smoothed(self._state, info.state_seconds + len(info.state) / BYTES_PER_SECOND)
        return self._judge() if self.measured >= TRIED else ""

    def _judge(self) -> str:
        """Return a message if saving begins or ends."""
        if 2 * self.players * self._bytes > STATE_BYTES:
            self.why_not = f"the states of {counted(self.players, 'player')} take {byte_size(self._bytes)} each"
            return f"a lost player starts new episodes: {self.why_not}"
        if self._affordable > self.most:
            needed = math.ceil(100 * self._state / (self.most * self._fragment)) / 100
            self.why_not = f"saving a player's state takes {self._state:.2g} s, a fragment {self._fragment:.2g} s"
            hint = f"; players.state_cost={needed:g} saves it" if needed <= 1 else ""
            return f"a lost player starts new episodes: {self.why_not} (players.state_cost={self.cost:g}){hint}"
        if self.measured > TRIED:
            return ""
        often = "every fragment" if self.interval == 1 else f"every {self.interval} fragments"
        size = byte_size(self._bytes)
        return f"a lost player continues its episodes: each returns its state ({size}) after {often}"


def _smoothed(before: float, now: float) -> float:
    """Return the smoothed value of a series of times."""
    return before + SMOOTHING * (now - before) if before else now
