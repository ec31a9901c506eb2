"""What travels between players, buffer and driver."""

from __future__ import annotations

from dataclasses import dataclass, field

from sheeprl.buffer.memmap import Array
from sheeprl.buffer.storage import Rows
from sheeprl.buffer.streams import Slots


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
        state: what the player held at its end, if that was asked for and can be kept.
        unsaved: why the environments' state can't be kept, if it can't.
        episode_numbers: the numbers in the last infos of these episodes, by key; not every info has every key.
    """

    version: int
    policy_steps: int
    rows: int
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    seconds: float
    state: bytes | None = None
    unsaved: str = ""
    episode_numbers: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class BufferStatus:
    """What a shard of the replay answers to everything that it is asked.

    Args:
        size: rows stored.
        available: distinct samples that it could draw.
        mass: what it counts for when samples are shared out over the shards.
        sample_bytes: bytes of one sample, 0 while it is empty.
        counts: how often something didn't go the usual way, such as `late_writes`, into rows that were gone.
        added: rows that it has been given since the run began, those that were overwritten since among them.
    """

    size: int = 0
    available: int = 0
    total_priority: float = 0.0
    sample_bytes: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    added: int = 0


@dataclass(frozen=True)
class Write:
    """What a loss gave to keep with the rows that it sampled; goes from learner to replay by reference.

    Args:
        index: `[N]` or `[L, N]`, which rows.
        values: new values by flat key, shaped like `index` in front.
        priority: `[N]`, new priorities of the samples; that of a sequence is its last row's.
    """

    index: Slots
    values: Rows
    priority: Array | None = None


Writes = list[Write]


@dataclass(frozen=True)
class UpdateInfo:
    """What the learner answers to an update.

    Args:
        gradient_steps: gradient steps taken since the run began.
        metrics: means over the update.
        seconds: time it took.
        began: when, by the learner's own clock.
        notes: what is worth a line in the run's log.
        compiling: part of that time in which steps were compiled.
    """

    gradient_steps: int
    metrics: dict[str, float]
    seconds: float
    began: float
    notes: tuple[str, ...] = ()
    compiling: float = 0.0
