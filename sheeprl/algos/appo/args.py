"""APPO's arguments and their defaults."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from sheeprl.algos.args import OnPolicy
from sheeprl.algos.impala.args import VTraceArgs
from sheeprl.algos.ppo.args import PPOArgs
from sheeprl.utils.settings import Count, Fractional, needs


class APPOArgs(VTraceArgs, PPOArgs):
    """Arguments of APPO: PPO's clipped objective over V-trace advantages."""

    algorithm: ClassVar[str] = "sheeprl.algos.appo.appo:APPO"
    summary: ClassVar[str] = "Asynchronous PPO: clipped surrogate over V-trace advantages on lagging rollouts"
    help_first: ClassVar[tuple[str, ...]] = (
        *("learning_rate", "gamma", "batch_size", "rollout_steps", "epochs", "clip", "clip_rho", "memory"),
        *("hidden_sizes",),
    )

    gae_lambda: Fractional = Field(0.95, description="lambda of the V-trace targets; 1 for n-step returns")
    epochs: Count = Field(4, description="passes over each rollout")
    sequence: Count = Field(
        16, description="rows of a training sequence with a memory", json_schema_extra=needs("algo.memory")
    )

    def data(self) -> OnPolicy:
        """Return settings to read whole rollouts; with a memory, in sequences."""
        sequence = None if self.memory is None else self.sequence
        return replace(super().data(), sequence=sequence, tolerates_staleness=True)
