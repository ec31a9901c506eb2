"""Counters of a run, the open metrics window, and the periods of logging, evaluation and checkpoints.

All state consists of plain values, so a checkpoint can store it and a resumed run continues the same metrics line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from sheeprl.metrics.env_changes import EnvChanges
from sheeprl.metrics.time_breakdown import TimeBreakdown

if TYPE_CHECKING:
    from sheeprl.actors.messages import FragmentInfo, UpdateInfo


@dataclass(frozen=True)
class Episode:
    """Training episode.

    Args:
        step: policy steps of the run once its last round was collected.
        total: undiscounted return.
        length: actions.
    """

    step: int
    total: float
    length: int


RECENT = 100  # episodes of the mean return
SUCCESS = ("success", "is_success")  # numbers of an episode's last info whose mean is the success rate


@dataclass
class Counters:
    """Counters since the start of the run, across resumes.

    Args:
        policy_steps: stored actions.
        rows: stored rows, including those without an action.
        gradient_steps: gradient steps of the agent.
        version: version of the policy, the number of trained rounds.
        progress: fraction of the run collected when the current round began, from 0 to 1.
        restarts: restarts of players.
        trainer_restarts: restarts of the trainer group.
        buffer_restarts: restarts of replay shards.
        refused: fragments that the replay rejected.
        incarnations: newest incarnation of each player.
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
    """Metrics since the last metrics line. Times are in seconds."""

    began: float
    policy_steps: int = 0  # at the beginning, as gradient_steps
    gradient_steps: int = 0
    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    episode_numbers: dict[str, list[float]] = field(default_factory=dict)
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
        """Return the time breakdown of the window until now."""
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
    """Counters and metrics of a run.

    Args:
        counters: initial values.
        now: current time on the run's clock, in seconds.
    """

    def __init__(self, counters: Counters, now: float) -> None:
        """Open the first window."""
        self.counters = counters
        self.window = MetricsWindow(now, counters.policy_steps, counters.gradient_steps)
        self.breakdown = TimeBreakdown()  # of the closed windows
        self.recent_returns: deque[float] = deque(maxlen=RECENT)
        self.waiting: dict[int, float] = {}  # start of the wait, by waiting player
        self.asked_at: dict[str, int] = {}  # policy steps of the last call of `is_due`, by what may be due
        self.began_at = counters.policy_steps
        self.evaluated_at: int | None = None
        self.new_episodes: list[Episode] = []  # of rounds that aren't complete
        self.episodes_written = 0
        self.evaluating: list[int] = []  # policy steps of the evaluations in progress
        self.best_evaluation: float | None = None
        self.evaluations_since_best = 0
        self.env_changes = EnvChanges()
        self.finished_rounds = counters.version  # rounds whose end the callbacks have seen

    # ------------------------------------------------------------------------------------ recording

    def record_fragment(self, info: FragmentInfo, instead_of: FragmentInfo | None = None) -> None:
        """Count a stored fragment, which may replace a lost one that was never sampled."""
        window = self.window
        if instead_of is not None:
            self._forget_episodes(instead_of)
        self.counters.policy_steps += info.policy_steps - (instead_of.policy_steps if instead_of else 0)
        self.counters.rows += info.rows - (instead_of.rows if instead_of else 0)
        window.playing += info.seconds
        window.staleness = max(window.staleness, self.counters.version - info.version)
        window.returns += info.returns
        window.lengths += info.lengths
        for name, numbers in info.episode_numbers.items():
            window.episode_numbers.setdefault(name, []).extend(numbers)
        self.recent_returns += info.returns
        step = self.counters.policy_steps
        self.new_episodes += [Episode(step, *ended) for ended in zip(info.returns, info.lengths, strict=True)]

    def _forget_episodes(self, info: FragmentInfo) -> None:
        """Remove the episodes of a lost fragment from those that aren't written yet."""
        for ended in zip(info.returns, info.lengths, strict=True):
            found = [episode for episode in self.new_episodes if (episode.total, episode.length) == ended]
            if found:
                self.new_episodes.remove(found[-1])

    def take_new_episodes(self) -> list[Episode]:
        """Return the episodes since the last call."""
        taken, self.new_episodes = self.new_episodes, []
        return taken

    def retract_fragment(self, info: FragmentInfo) -> None:
        """Remove a fragment from the counters, after it was lost unsampled."""
        self._forget_episodes(info)
        self.counters.policy_steps -= info.policy_steps
        self.counters.rows -= info.rows

    def record_update(self, info: UpdateInfo) -> None:
        """Count the gradient steps of an update and add its losses to the window."""
        self.counters.gradient_steps = info.gradient_steps
        self.window.learning += info.seconds - info.compiling
        self.window.compiling += info.compiling
        for name, value in info.metrics.items():
            self.window.losses.setdefault(name, []).append(value)

    def start_wait(self, player: int, now: float) -> None:
        """Start the wait of a player for newer weights."""
        self.waiting[player] = now

    def end_wait(self, player: int, now: float) -> None:
        """End the wait of a player for newer weights."""
        self.window.player_idle += now - self.waiting.pop(player)

    def _count_waits(self, now: float) -> None:
        """Add all current waits to the window and restart them, so that a long wait is split between windows."""
        for player, since in self.waiting.items():
            self.window.player_idle += now - since
            self.waiting[player] = now

    @property
    def mean_return(self) -> float | None:
        """Return the mean return of the newest episodes, None before the first episode ends."""
        return _mean(self.recent_returns) if self.recent_returns else None

    def is_due(self, what: str, every: int | None) -> bool:
        """Return whether the run passed a multiple of `every` policy steps since the last call for `what`."""
        before = self.asked_at.get(what, self.began_at)
        self.asked_at[what] = self.counters.policy_steps
        return every is not None and self.counters.policy_steps // every > before // every

    # ----------------------------------------------------------------------------------------- metrics

    def metrics(self, now: float, players: int) -> dict[str, float] | None:
        """Return the metrics of the window until now, None if it has neither policy nor gradient steps."""
        self._count_waits(now)
        counters, window = self.counters, self.window
        steps, updates = counters.policy_steps - window.policy_steps, counters.gradient_steps - window.gradient_steps
        if not steps and not updates:
            return None
        seconds = max(now - window.began, 1e-9)
        values = {name: _mean(losses) for name, losses in window.losses.items()}
        if window.returns:
            values |= {"Rewards/rew_avg": _mean(window.returns), "Game/ep_len_avg": _mean(window.lengths)}
        values |= {f"Episode/{name}": _mean(numbers) for name, numbers in window.episode_numbers.items()}
        for name in SUCCESS:
            if name in window.episode_numbers:
                values["Episode/success_rate"] = _mean(window.episode_numbers[name])
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
        """Return the time breakdown of the run until now, including its time before a resume."""
        self._count_waits(now)
        return self.breakdown + self.window.breakdown(now)

    def reset_window(self, now: float) -> None:
        """Close the window and begin a new one."""
        self.breakdown = self.breakdown_until(now)
        self.window = MetricsWindow(now, self.counters.policy_steps, self.counters.gradient_steps)

    # ----------------------------------------------------------------------------------------- saving

    def state_dict(self, now: float) -> dict[str, Any]:
        """Return the state as values that JSON can represent."""
        return {
            "counters": asdict(self.counters),
            "window": asdict(self.window) | {"began": now - self.window.began},
            "spent": asdict(self.breakdown),
            "recent_returns": list(self.recent_returns),
            "asked_at": dict(self.asked_at),
            "evaluated_at": self.evaluated_at,
            "new_episodes": [[episode.step, episode.total, episode.length] for episode in self.new_episodes],
            "episodes_written": self.episodes_written,
            "evaluating": list(self.evaluating),
            "best_evaluation": self.best_evaluation,
            "evaluations_since_best": self.evaluations_since_best,
            "env_changes": self.env_changes.state,
            "finished_rounds": self.finished_rounds,
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], now: float) -> RunStats:
        """Return the statistics of a state from `state_dict`."""
        stats = cls(Counters(**state["counters"]), now)
        stats.window = MetricsWindow(**state["window"])
        stats.window.began = now - stats.window.began
        stats.breakdown = TimeBreakdown(**state.get("spent", {}))  # absent in checkpoints of older versions
        stats.recent_returns += state["recent_returns"]
        stats.evaluated_at = state["evaluated_at"]
        # The following are absent in checkpoints of older versions.
        stats.asked_at |= state.get("asked_at", {})
        stats.new_episodes = [Episode(*values) for values in state.get("new_episodes", ())]
        stats.episodes_written = state.get("episodes_written", 0)
        stats.evaluating += state.get("evaluating", ())
        stats.best_evaluation = state.get("best_evaluation")
        stats.evaluations_since_best = state.get("evaluations_since_best", 0)
        stats.env_changes = EnvChanges((first, values) for first, values in state.get("env_changes", ()))
        stats.finished_rounds = state.get("finished_rounds", stats.counters.version)
        return stats


def _mean(values: Sequence[float] | deque[float]) -> float:
    """Return the arithmetic mean."""
    return sum(values) / len(values)
