"""What travels between players, buffer and driver."""

from __future__ import annotations

from dataclasses import dataclass

from sheeprl.buffer.storage import Rows


@dataclass(frozen=True)
class Fragment:
    """What a player played in one go; goes from player to buffer by reference.

    Args:
        player: its number.
        incarnation: how often it had been restarted.
        sequence: number of this fragment in this incarnation.
        rows: `[T + 1, B, *]` arrays by flat key; the last row is the tail.
    """

    player: int
    incarnation: int
    sequence: int
    rows: Rows


@dataclass(frozen=True)
class FragmentInfo:
    """What the driver learns of a fragment.

    Args:
        version: the weights that played it.
        policy_steps: decisions in it.
        rows: T × B.
        returns: undiscounted return of each episode that ended in it.
        lengths: decisions of each of these episodes.
        seconds: time it took.
    """

    version: int
    policy_steps: int
    rows: int
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class BufferStatus:
    """What the buffer answers to an add.

    Args:
        size: rows stored.
        ready: whether a sample can be served.
    """

    size: int
    ready: bool


@dataclass(frozen=True)
class UpdateInfo:
    """What the learner answers to an update.

    Args:
        gradient_steps: gradient steps taken since the run began.
        metrics: means over the update.
        seconds: time it took.
    """

    gradient_steps: int
    metrics: dict[str, float]
    seconds: float
