"""A host: a process that holds players. One call collects the fragments of all its players."""

from __future__ import annotations

import pickle
import platform
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sheeprl.actors.interfaces import CollectRequest, HostInterface
from sheeprl.utils.errors import describe

if TYPE_CHECKING:
    from sheeprl.actors.messages import Fragment, FragmentInfo
    from sheeprl.actors.player import Player
    from sheeprl.algos.base import Mode
    from sheeprl.buffer.storage import Rows


class Host(HostInterface):
    """Holds players, which collect one after another.

    Args:
        make: makes player `number` in its `incarnation`.
    """

    def __init__(self, make: Callable[[int, int], Player]) -> None:
        """Start without players."""
        self.make = make
        self.incarnations: dict[int, int] = {}
        self.players: dict[int, Player] = {}

    def assign(self, number: int, incarnation: int) -> None:
        """Hold player `number` in its `incarnation`. The next call makes the player, and raises if that fails."""
        self.release(number)
        self.incarnations[number] = incarnation

    def release(self, number: int) -> None:
        """Close a player."""
        self.incarnations.pop(number, None)
        if number in self.players:
            self.players.pop(number).close()

    def _player(self, number: int) -> Player:
        """Return a player; the first call makes it."""
        if number not in self.players:
            self.players[number] = self.make(number, self.incarnations[number])
        return self.players[number]

    def collect(
        self,
        requests: Sequence[CollectRequest],
        rows: int,
        weights: Rows | None,
        version: int,
        mode: Mode,
        progress: float,
    ) -> tuple[Any, ...]:
        """Collect a fragment from each of several players (see `Player.collect`).

        Args:
            requests: number, `keep_state`, `unsaved` and `env_values` of each player.
            rows: time steps of a fragment.
            weights: policy weights.
            version: version of the weights.
            mode: mode of `Algorithm.act`.
            progress: progress of the run.

        Returns:
            The statistics of each fragment, or the exception of its player; then each fragment, None after an
            exception.
        """
        arguments = rows, weights, version, mode, progress
        pairs = [self._collect(number, *arguments, *own) for number, *own in requests]
        return [outcome for outcome, _ in pairs], *(fragment for _, fragment in pairs)

    def _collect(self, number: int, *arguments: Any) -> tuple[FragmentInfo | Exception, Fragment | None]:
        """Return the outcome of `Player.collect`; the other players continue after an exception."""
        try:
            return self._player(number).collect(*arguments)
        except Exception as error:
            return _portable(error), None

    def call_player(self, number: int, method: str, *args: Any) -> Any:
        """Call a method of one player."""
        return getattr(self._player(number), method)(*args)

    def node(self) -> str:
        """Return the name of this machine; a process of a cluster returns the id of its node."""
        return platform.node()

    def close(self) -> None:
        """Close all players."""
        for number in list(self.players):
            self.release(number)


def _portable(error: Exception) -> Exception:
    """Return an exception that can be passed to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an exception of an environment may raise anything here
        return RuntimeError(describe(error))
    return error
