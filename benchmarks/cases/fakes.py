"""Players, a replay and trainers that answer at once and do nothing, so that what is left is the driver's own work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sheeprl.actors.handle import LocalHandle
from sheeprl.actors.messages import BufferStatus, FragmentInfo, UpdateInfo
from sheeprl.algos.args import OffPolicy
from sheeprl.driver.players import PlayerGroup, PlayerState
from sheeprl.driver.replay import ReplayClient
from sheeprl.driver.settings import Plan
from sheeprl.driver.trainers import LearnerGroup, Snapshot
from sheeprl.metrics.reporter import Progress
from sheeprl.run import Run

ENVS = 4
ROWS = 64


class PlayerStandIn:
    """Brings fragments of 64 rows of 4 environments, in which an episode ends."""

    def __init__(self) -> None:
        self.steps = ROWS * ENVS

    def collect(
        self, rows: int, weights: Any, version: int, mode: str, progress: float, *checkpointing: Any
    ) -> tuple[FragmentInfo, None]:
        """At once."""
        state = b"" if checkpointing[0] else None
        return FragmentInfo(version, self.steps, self.steps, (100.0,), (100,), 0.01, state), None


class ReplayStandIn:
    """Counts what it is given."""

    def __init__(self) -> None:
        self.rows = 0

    def status(self) -> BufferStatus:
        """So much."""
        return BufferStatus(self.rows, self.rows, float(self.rows), 100, {}, self.rows)

    def add(self, fragment: Any) -> BufferStatus:
        """Nothing is copied."""
        self.rows += ROWS * ENVS
        return self.status()

    def sample(self, n_batches: int, progress: float) -> tuple[int, None]:
        """Nothing is drawn."""
        return n_batches, None

    def sample_part(self, count: int, progress: float) -> tuple[int, None]:
        """Nor here."""
        return count, None


class TrainersStandIn:
    """Counts gradient steps."""

    def __init__(self) -> None:
        self.gradient_steps = 0

    def update(self, steps: int, progress: float, order: int | None, *blocks: Any) -> tuple[UpdateInfo, list[Any]]:
        """Nothing is learned."""
        self.gradient_steps += steps
        return UpdateInfo(self.gradient_steps, {"Loss/value_loss": 1.0}, 0.01, 0.0), []

    def weights(self) -> tuple[int, None]:
        """There are none."""
        return self.gradient_steps, None

    def snapshot(self) -> tuple[int, None]:
        """Of nothing."""
        return self.gradient_steps, None


class NoReporter:
    """Says nothing."""

    def progress(self, progress: Progress) -> None:
        """Nothing."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def message(self, text: str, level: str = "info") -> None:
        """Nothing."""

    def event(self, name: str, /, **values: float | str | None) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class NoKeeper:
    """Keeps nothing."""

    keeps_buffer = False
    newest_buffer = None

    def begin(self, policy_steps: int) -> str:
        """Nowhere."""
        return str(Path())

    async def finish(self, folder: str, stats: Any, snapshot: Snapshot, players: Mapping[int, PlayerState]) -> None:
        """Nothing."""

    def abandon(self, folder: str) -> None:
        """Nothing."""


def make_run(players: int, rounds: int, shards: int = 1, gradient_steps: int = 16) -> Run:
    """A run whose pieces are all stand-ins.

    Args:
        players: how many.
        rounds: until it ends.
        shards: of the replay.
        gradient_steps: of a round.
    """
    round_steps = players * ROWS * ENVS
    data = OffPolicy(batch_size=256, replay_ratio=gradient_steps / round_steps, fragment_rows=ROWS)
    plan = Plan(data, rounds * round_steps, players, ROWS, max_staleness=1, envs=ENVS, log_every=round_steps)
    handles: Sequence[LocalHandle] = [LocalHandle(ReplayStandIn()) for _ in range(shards)]
    return Run(
        plan,
        PlayerGroup(players, lambda number, incarnation: LocalHandle(PlayerStandIn()), []),
        ReplayClient(handles, data.batch_size),
        LearnerGroup(LocalHandle(TrainersStandIn())),
        NoReporter(),
        NoKeeper(),
    )
