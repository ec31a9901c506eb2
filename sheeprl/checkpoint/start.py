"""The checkpoint that a run resumes from, or from whose rows another one begins."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sheeprl.algos.args import OffPolicy
from sheeprl.checkpoint import manifest
from sheeprl.checkpoint.files import AGENT, STATE
from sheeprl.config.schema import Config
from sheeprl.driver.players import PlayerState
from sheeprl.metrics.counters import Counters
from sheeprl.utils.errors import one_line


@dataclass(frozen=True)
class Start:
    """Checkpoint that a run resumes from.

    Args:
        checkpoint: its folder.
        algorithm: the name of the algorithm.
        shards: number of shards of its replay.
        stats: the run's statistics, as `RunStats.state_dict` returns them.
        metrics_size: size of `metrics.jsonl` at the checkpoint, in bytes.
        incarnations: incarnations of the players with a saved state, by player.
        replay: URL of its replay at `checkpoint.storage`; None if the rows are in its folder.
    """

    checkpoint: Path
    algorithm: str
    shards: int
    stats: dict[str, Any]
    metrics_size: int
    incarnations: dict[int, int]
    replay: str | None = None

    @property
    def buffer(self) -> str | None:
        """Return the folder or URL of the saved replay, None if the checkpoint has none."""
        if self.replay is not None:
            return self.replay
        folder = self.checkpoint / "buffer"
        return str(folder) if folder.is_dir() else None

    def agent(self) -> bytes:
        """Return the snapshot of the learner."""
        return (self.checkpoint / AGENT).read_bytes()

    def players(self, config: Config) -> dict[int, PlayerState]:
        """Return the saved states of the players that the run still has, by player.

        A player's state belongs to the rows it collected. Off-policy, players start new episodes if no replay is
        restored.
        """
        if isinstance(config.algo.data(), OffPolicy) and self.buffer is None:
            return {}
        return {
            number: PlayerState(incarnation, (self.checkpoint / f"player_{number}.pt").read_bytes())
            for number, incarnation in self.incarnations.items()
            if number < (config.players.num or 1)
        }


def read_start(checkpoint: Path) -> Start:
    """Read the state file of a checkpoint.

    Raises:
        DamagedCheckpointError: the file is missing or damaged.
    """
    path = checkpoint / STATE
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        Counters(**state["books"]["counters"])
        incarnations = {int(number): int(life) for number, life in state["players"].items()}
        shards, size = int(state["shards"]), int(state["metrics_size"])
        return Start(checkpoint, state["algorithm"], shards, state["books"], size, incarnations, state.get("replay"))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise manifest.DamagedCheckpointError(path, f"is damaged: {one_line(error)}") from error
