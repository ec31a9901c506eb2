"""Configurations for tests of the driver, with any way to read the data and without an algorithm."""

from __future__ import annotations

from typing import Any

from sheeprl.algos.args import AlgoArgs, OffPolicy, OnPolicy
from sheeprl.config.schema import Config
from sheeprl.envs.config import EnvConfig

NEVER = 10**9
"""Policy steps that no test reaches."""


class GivenArgs(AlgoArgs):
    """Arguments of an algorithm that reads its data as the test says."""

    given: Any

    def data(self) -> OnPolicy | OffPolicy:
        """Return how the data is read."""
        return self.given  # type: ignore[no-any-return]


def driver_config(
    data: OnPolicy | OffPolicy,
    total_steps: int,
    players: int,
    fragment_rows: int,
    max_staleness: int,
    *,
    envs: int = 1,
    prefetch: int = 1,
    max_failures: int = 3,
    log_every: int = 1000,
    snapshot_every: int | None = None,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float | None = None,
    eval_every: int | None = None,
    eval_episodes: int = 0,
    quorum: float = 1.0,
) -> Config:
    """Return a configuration with the settings that the driver reads; None stands for never."""
    minutes = None if checkpoint_seconds is None else checkpoint_seconds / 60
    return Config(
        algo=GivenArgs(name="given", given=data),
        env=EnvConfig(id="Given-v0", num_envs=envs),
        run={"total_steps": total_steps, "max_staleness": max_staleness},
        players={"num": players, "fragment_rows": fragment_rows, "quorum": quorum},
        trainer={"prefetch": prefetch},
        checkpoint={
            "every": checkpoint_every,
            "every_minutes": minutes,
            "snapshot_every": snapshot_every or NEVER,
        },
        eval={"every": eval_every, "episodes": eval_episodes},
        log={"every": log_every},
        ray={"max_failures": max_failures},
    )
