"""Handles of all workers of a run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sheeprl.actors.handle import Handle
    from sheeprl.driver.replay import ReplayClient
    from sheeprl.metrics.reporter import Reporter


@dataclass(frozen=True)
class Workers:
    """The parts of a run, wherever they are.

    Args:
        make_player: handle of player `number` in its `incarnation`.
        replay: all its shards.
        learner: handle of the trainer group.
        make_learner: builds another group for a lost one, if it can be replaced.
        find_moves: returns the players that have to move to another process, with the reason; gets the seconds that
            the trainers have waited for players.
        make_evaluator: makes a worker that only evaluates, if the run can have one; gets the number of earlier ones.
        observe: returns a reporter that also passes on what the run reports, such as to its cluster.
    """

    make_player: Callable[[int, int], Handle]
    replay: ReplayClient
    learner: Handle
    make_learner: Callable[[int], Awaitable[Handle]] | None = None
    find_moves: Callable[[float], Awaitable[dict[int, str]]] | None = None
    make_evaluator: Callable[[int], Handle] | None = None
    observe: Callable[[Reporter], Reporter] = lambda reporter: reporter
