"""Players, replay and trainers that return constants at once, so that only the driver's work takes time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from sheeprl.actors.handle import Handle, LocalHandle
from sheeprl.actors.host import Host
from sheeprl.actors.messages import BufferStatus, FragmentInfo, UpdateInfo
from sheeprl.algos.args import AlgoArgs, OffPolicy
from sheeprl.buffer.memmap import Array
from sheeprl.config.schema import Config
from sheeprl.driver.players import PlayerGroup, PlayerState
from sheeprl.driver.replay import ReplayClient
from sheeprl.driver.trainers import LearnerGroup, Snapshot
from sheeprl.envs.config import EnvConfig
from sheeprl.metrics.display import Progress
from sheeprl.run import Run

ENVS = 4
ROWS = 64
OBSERVATION = 17  # numbers of an observation
NEVER = 10**9  # policy steps that no run reaches


class FakeArgs(AlgoArgs):
    """Arguments of an algorithm with a given way to read its data."""

    off_policy: Any

    def data(self) -> OffPolicy:
        """Return how the data is read."""
        data: OffPolicy = self.off_policy
        return data


class FakePlayer:
    """Returns fragments of 64 rows of 4 environments in which one episode ends.

    Args:
        fragment: the rows.
    """

    def __init__(self, fragment: Any = None) -> None:
        """Store the policy steps of a fragment."""
        self.fragment, self.steps = fragment, ROWS * ENVS

    def collect(
        self, rows: int, weights: Any, version: int, mode: str, progress: float, *checkpointing: Any
    ) -> tuple[FragmentInfo, Any]:
        """Return the statistics of a fragment."""
        state = b"" if checkpointing[0] else None
        return FragmentInfo(version, self.steps, self.steps, (100.0,), (100,), 0.01, state), self.fragment

    def close(self) -> None:
        """Do nothing."""


class FakeHost(Host):
    """Holds players whose fragments have observations of 17 numbers."""

    def __init__(self) -> None:
        """Make the rows of all fragments."""
        rows = np.zeros((ROWS + 1, ENVS, OBSERVATION), np.float32)
        super().__init__(lambda number, incarnation: cast(Any, FakePlayer(rows)))

    def node(self) -> str:
        """Return the name of the only node."""
        return "node"


class FakeReplay:
    """Counts rows."""

    def __init__(self) -> None:
        """Start empty."""
        self.rows = 0

    def status(self) -> BufferStatus:
        """Return the status for the counted rows."""
        return BufferStatus(self.rows, self.rows, float(self.rows), 100, {}, self.rows)

    def add(self, fragment: Any, batch: int, place: int) -> BufferStatus:
        """Count the rows of a fragment."""
        self.rows += ROWS * ENVS
        return self.status()

    def sample(self, n_batches: int, progress: float) -> tuple[int, None]:
        """Return no samples."""
        return n_batches, None

    def sample_part(self, count: int, progress: float) -> tuple[int, None]:
        """Return no samples."""
        return count, None


class FakeTrainers:
    """Counts gradient steps."""

    def __init__(self) -> None:
        """Start at zero."""
        self.gradient_steps = 0

    def update(self, steps: int, progress: float, order: int | None, *blocks: Any) -> tuple[UpdateInfo, list[Any]]:
        """Count the gradient steps."""
        self.gradient_steps += steps
        return UpdateInfo(self.gradient_steps, {"Loss/value_loss": 1.0}, 0.01, 0.0), []

    def weights(self) -> tuple[int, None]:
        """Return no weights."""
        return self.gradient_steps, None

    def snapshot(self) -> tuple[int, Array]:
        """Return an empty state."""
        return self.gradient_steps, np.zeros(0, np.uint8)


class NoReporter:
    """Reporter that ignores everything."""

    def progress(self, progress: Progress) -> None:
        """Ignore the progress."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Ignore the metrics."""

    def message(self, text: str, level: str = "info") -> None:
        """Ignore the message."""

    def event(self, name: str, /, **values: float | str | None) -> None:
        """Ignore the event."""

    def close(self) -> None:
        """Do nothing."""


class NoStore:
    """Checkpoint store that writes nothing."""

    keeps_buffer = False
    newest_buffer = None

    def begin(self, policy_steps: int) -> str:
        """Return the working directory."""
        return str(Path())

    async def finish(
        self, folder: str, stats: Mapping[str, Any], snapshot: Snapshot, players: Mapping[int, PlayerState]
    ) -> None:
        """Write nothing."""

    def abandon(self, folder: str) -> None:
        """Delete nothing."""


@dataclass
class Handles:
    """Handles of the workers of a run without real ones; by default, all are in this process."""

    make_player: Callable[[int, int], Handle] = lambda number, incarnation: LocalHandle(FakePlayer())
    make_shard: Callable[[], Handle] = lambda: LocalHandle(FakeReplay())
    make_trainers: Callable[[], Handle] = lambda: LocalHandle(FakeTrainers())


def make_run(
    players: int, rounds: int, shards: int = 1, gradient_steps: int = 16, handles: Handles | None = None
) -> Run:
    """Return a run without real workers.

    Args:
        players: number of players.
        rounds: rounds of the run.
        shards: number of replay shards.
        gradient_steps: gradient steps per round.
        handles: handles of the workers.
    """
    handles = handles or Handles()
    round_steps = players * ROWS * ENVS
    data = OffPolicy(batch_size=256, replay_ratio=gradient_steps / round_steps, fragment_rows=ROWS)
    config = Config(
        algo=FakeArgs(name="fake", off_policy=data),
        env=EnvConfig(id="Fake-v0", num_envs=ENVS),
        run={"total_steps": rounds * round_steps, "max_staleness": 1},
        players={"num": players, "fragment_rows": ROWS},
        checkpoint={"every": NEVER, "snapshot_every": NEVER},
        eval={"episodes": 0},
        log={"every": round_steps},
    )
    return Run(
        config,
        PlayerGroup(players, handles.make_player, []),
        ReplayClient([handles.make_shard() for _ in range(shards)], data.batch_size),
        LearnerGroup(handles.make_trainers()),
        NoReporter(),
        NoStore(),
    )
