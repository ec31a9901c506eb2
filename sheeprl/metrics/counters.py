"""What the run counts: the counters, what happened since the last line of metrics, and when something is due next.

Plain values only, so that a checkpoint can keep all of it and a resumed run goes on to the very line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from sheeprl.metrics.time_breakdown import TimeBreakdown

if TYPE_CHECKING:
    from sheeprl.actors.messages import FragmentInfo, UpdateInfo

RECENT = 100  # episodes that the mean return is taken over


@dataclass
class Counters:
    """Everything that is counted.

    Args:
        policy_steps: decisions that the replay took in.
        rows: that it took in, those among them on which no decision was taken.
        gradient_steps: that the agent has taken.
        version: rounds learned.
        progress: part of the run that had been played when the round being learned began, from 0 to 1.
        restarts: of players.
        trainer_restarts: of the trainer group.
        buffer_restarts: of shards of the replay.
        refused: fragments that the replay didn't take.
        incarnations: the newest of each player.
        wall_time: seconds.
    """

    policy_steps: int = 0
    rows: int = 0
    gradient_steps: int = 0
    version: int = 0
    progress: float = 0.0
    restarts: int = 0
    trainer_restarts: int = 0
    buffer_restarts: int = 0
    refused: int = 0
    incarnations: list[int] = field(default_factory=list)
    wall_time: float = 0.0


@dataclass
class MetricsWindow:
    """What happened since the last line of metrics. Times are in seconds."""

    began: float
    policy_steps: int = 0  # counted when it began
    gradient_steps: int = 0
    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)
    staleness: int = 0
    playing: float = 0.0
    learning: float = 0.0
    compiling: float = 0.0
    player_idle: float = 0.0
    trainer_idle: float = 0.0
    batch_wait: float = 0.0
    recovery: float = 0.0
    checkpoint_stall: float = 0.0

    def breakdown(self, now: float) -> TimeBreakdown:
        """Where its time went until now."""
        return TimeBreakdown(
            elapsed=now - self.began,
            updating=self.learning,
            compiling=self.compiling,
            waiting_for_players=self.trainer_idle,
            waiting_for_batches=self.batch_wait,
            checkpoints=self.checkpoint_stall,
            players_idle=self.player_idle,
            playing=self.playing,
        )


class RunStats:
    """The run's book-keeping.

    Args:
        counters: where to go on from.
        now: the present moment, by the run's clock.
    """

    def __init__(self, counters: Counters, now: float) -> None:
        self.counters = counters
        self.window = MetricsWindow(now, counters.policy_steps, counters.gradient_steps)
        self.breakdown = TimeBreakdown()  # in the windows before
        self.recent_returns: deque[float] = deque(maxlen=RECENT)
        self.waiting: dict[int, float] = {}  # players that wait for newer weights, and since when
        self.periods: dict[str, int] = {}
        self.began_at = counters.policy_steps
        self.evaluated_at: int | None = None

    # ------------------------------------------------------------------------------------ taking note

    def record_fragment(self, info: FragmentInfo, instead_of: FragmentInfo | None = None) -> None:
        """Take note of a fragment that the replay took; maybe in the place of one that nobody has learned from."""
        window = self.window
        self.counters.policy_steps += info.policy_steps - (instead_of.policy_steps if instead_of else 0)
        self.counters.rows += info.rows - (instead_of.rows if instead_of else 0)
        window.playing += info.seconds
        window.staleness = max(window.staleness, self.counters.version - info.version)
        window.returns += info.returns
        window.lengths += info.lengths
        self.recent_returns += info.returns

    def retract_fragment(self, info: FragmentInfo) -> None:
        """Take back that the replay took a fragment: it was lost before anybody had learned from it."""
        self.counters.policy_steps -= info.policy_steps
        self.counters.rows -= info.rows

    def record_update(self, info: UpdateInfo) -> None:
        """Take note of an update."""
        self.counters.gradient_steps = info.gradient_steps
        self.window.learning += info.seconds - info.compiling
        self.window.compiling += info.compiling
        for name, value in info.metrics.items():
            self.window.losses.setdefault(name, []).append(value)

    def start_wait(self, player: int, now: float) -> None:
        """Take note that a player begins to wait for newer weights."""
        self.waiting[player] = now

    def end_wait(self, player: int, now: float) -> None:
        """Take note that it has them."""
        self.window.player_idle += now - self.waiting.pop(player)

    def _count_waits(self, now: float) -> None:
        """Count what players have waited until now, so that each window has its own part of a long wait."""
        for player, since in self.waiting.items():
            self.window.player_idle += now - since
            self.waiting[player] = now

    @property
    def mean_return(self) -> float | None:
        """Over the newest episodes; None while none has ended."""
        return _mean(self.recent_returns) if self.recent_returns else None

    def is_due(self, what: str, every: int | None) -> bool:
        """Whether a multiple of `every` policy steps was passed since this was asked last."""
        if every is None:
            return False
        before = self.periods.get(what, self.began_at // every)
        self.periods[what] = self.counters.policy_steps // every
        return self.periods[what] > before

    # ----------------------------------------------------------------------------------------- metrics

    def metrics(self, now: float, players: int) -> dict[str, float] | None:
        """The metrics of the window, of which `now` is the end; None if nothing was done in it."""
        self._count_waits(now)
        counters, window = self.counters, self.window
        steps, updates = counters.policy_steps - window.policy_steps, counters.gradient_steps - window.gradient_steps
        if not steps and not updates:
            return None
        seconds = max(now - window.began, 1e-9)
        values = {name: _mean(losses) for name, losses in window.losses.items()}
        if window.returns:
            values |= {"Rewards/rew_avg": _mean(window.returns), "Game/ep_len_avg": _mean(window.lengths)}
        if window.playing:
            values["Time/sps_env_interaction"] = steps * players / window.playing
        if window.learning:
            values["Time/sps_train"] = updates / window.learning
        if window.compiling:
            values["Time/compiling"] = window.compiling / seconds
        return values | {
            "Time/sps": steps / seconds,
            "Time/player_idle": window.player_idle / (seconds * players),
            "Time/trainer_idle": window.trainer_idle / seconds,
            "Time/trainer_wait_batch": window.batch_wait / seconds,
            "Time/recovery": window.recovery,
            "Time/checkpoint_stall": window.checkpoint_stall / seconds,
            "Params/replay_ratio": counters.gradient_steps / max(1, counters.policy_steps),
            "Params/gradient_steps": counters.gradient_steps,
            "Players/restarts": counters.restarts,
            "Trainer/restarts": counters.trainer_restarts,
            "Weights/staleness": window.staleness,
            "Buffer/restarts": counters.buffer_restarts,
            "Buffer/refused": counters.refused,
        }

    def breakdown_until(self, now: float) -> TimeBreakdown:
        """Where the run's time went, in its earlier parts too if it was resumed."""
        self._count_waits(now)
        return self.breakdown + self.window.breakdown(now)

    def reset_window(self, now: float) -> None:
        """Begin a new window."""
        self.breakdown = self.breakdown_until(now)
        self.window = MetricsWindow(now, self.counters.policy_steps, self.counters.gradient_steps)

    # ----------------------------------------------------------------------------------------- keeping

    def to_plain(self, now: float) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "counters": asdict(self.counters),
            "window": asdict(self.window) | {"began": now - self.window.began},
            "spent": asdict(self.breakdown),
            "recent_returns": list(self.recent_returns),
            "periods": dict(self.periods),
            "evaluated_at": self.evaluated_at,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], now: float) -> RunStats:
        """What `to_plain` gave."""
        stats = cls(Counters(**plain["counters"]), now)
        stats.window = MetricsWindow(**plain["window"])
        stats.window.began = now - stats.window.began
        stats.breakdown = TimeBreakdown(**plain.get("spent", {}))  # which older checkpoints don't have
        stats.recent_returns += plain["recent_returns"]
        stats.periods |= plain["periods"]
        stats.evaluated_at = plain["evaluated_at"]
        return stats


def _mean(values: Sequence[float] | deque[float]) -> float:
    return sum(values) / len(values)
