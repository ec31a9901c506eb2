"""Messages between players, replay shards, learners and the driver."""

from __future__ import annotations

from dataclasses import dataclass, field

from sheeprl.buffer.memmap import Array
from sheeprl.buffer.storage import Rows
from sheeprl.buffer.streams import Slots


@dataclass(frozen=True)
class Fragment:
    """Rows of one call of `Player.collect`. They move from player to replay shard by reference.

    Args:
        player: number of the player.
        incarnation: incarnation of the player.
        sequence: number of the fragment in this incarnation.
        rows: `[T + 1, B, *]` arrays by flat key; the last row is the bootstrap row.
    """

    player: int
    incarnation: int
    sequence: int
    rows: Rows


@dataclass(frozen=True)
class FragmentInfo:
    """Statistics of one fragment.

    Args:
        version: version of the policy weights.
        policy_steps: actions in the fragment.
        rows: number of rows T × B.
        returns: undiscounted return of each episode that ended in the fragment.
        lengths: actions of each of these episodes.
        seconds: collection time.
        state: state of the player after the fragment, if it was requested.
        unsaved: why the environments' state can't be saved; "" if it can be saved.
        episode_numbers: numbers in the last infos of these episodes, by key; not every info has every key.
        state_seconds: time that the state took, without the test that it can be saved.
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
    state_seconds: float = 0.0


@dataclass(frozen=True)
class BufferStatus:
    """Status returned by every replay-shard call.

    Args:
        size: rows stored.
        available: distinct samples that can be drawn.
        total_priority: weight of the shard when samples are divided among the shards.
        sample_bytes: bytes of one sample; 0 for an empty shard.
        counts: number of irregular events by name, such as `late_writes`, which are writes into overwritten rows.
        added: rows added since the run began, including overwritten ones.
        capacity_bytes: bytes of the full shard; 0 before the first row, which shows the size of a row.
    """

    size: int = 0
    available: int = 0
    total_priority: float = 0.0
    sample_bytes: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    added: int = 0
    capacity_bytes: int = 0


@dataclass(frozen=True)
class Write:
    """Values that a loss writes back into sampled rows. They move from learner to replay shard by reference.

    Args:
        index: `[N]` or `[L, N]` row numbers.
        values: new values by flat key; their leading dimensions are those of `index`.
        priority: `[N]` new priorities of the samples; a sequence has the priority of its last row.
    """

    index: Slots
    values: Rows
    priority: Array | None = None


Writes = list[Write]


@dataclass(frozen=True)
class UpdateInfo:
    """Statistics of one update.

    Args:
        gradient_steps: gradient steps taken since the run began.
        metrics: means over the update.
        seconds: duration of the update.
        began: start of the update on the learner's clock, in seconds.
        notes: messages for the log of the run.
        compiling: seconds of the duration in which gradient steps were compiled.
        network_bytes: bytes of networks, gradients and optimizers on a rank.
    """

    gradient_steps: int
    metrics: dict[str, float]
    seconds: float
    began: float
    notes: tuple[str, ...] = ()
    compiling: float = 0.0
    network_bytes: int = 0
