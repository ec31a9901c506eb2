"""IMPALA's arguments and their defaults, and those of every algorithm with V-trace."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import Field, model_validator

from sheeprl.algos.a2c.args import A2CArgs
from sheeprl.algos.args import OnPolicy
from sheeprl.algos.ppo_recurrent.args import MemoryArgs
from sheeprl.utils.settings import DISCOUNTS, LEARNING_RATES, Count, Fractional, NonNegative, Positive


class VTraceArgs(MemoryArgs):
    """Arguments of `VTraceActorCritic` besides those of its other base class. Derive from it before the other base."""

    gamma: Fractional = Field(0.99, description="discount factor", json_schema_extra=DISCOUNTS)
    gae_lambda: Fractional = Field(1.0, description="lambda of the V-trace targets; 1 for n-step returns")
    clip_rho: Positive = Field(1.0, description="largest importance weight of an error (rho bar)")
    clip_c: Positive = Field(1.0, description="largest importance weight of a trace (c bar), at most clip_rho")

    @model_validator(mode="after")
    def _check_clips(self) -> VTraceArgs:
        """Reject a clip of the traces above that of the errors."""
        if self.clip_c > self.clip_rho:
            raise ValueError(
                f"clip_c={self.clip_c:g} is above clip_rho={self.clip_rho:g}; use at most clip_c={self.clip_rho:g}"
            )
        return self


class ImpalaArgs(VTraceArgs, A2CArgs):
    """Arguments of IMPALA, Espeholt et al. 2018 (1802.01561)."""

    algorithm: ClassVar[str] = "sheeprl.algos.impala.impala:Impala"
    summary: ClassVar[str] = "Importance-weighted actor-learner: policy gradient with V-trace on lagging rollouts"
    help_first: ClassVar[tuple[str, ...]] = (
        *("learning_rate", "gamma", "rollout_steps", "entropy_coef", "clip_rho", "clip_c", "memory", "hidden_sizes"),
    )

    rollout_steps: Count = Field(20, description="rows per environment in each rollout; each gives one gradient step")
    learning_rate: Positive = Field(6e-4, description="learning rate of RMSprop", json_schema_extra=LEARNING_RATES)
    entropy_coef: NonNegative = Field(0.01, description="coefficient of the entropy bonus")
    rmsprop_eps: Positive = Field(0.01, description="epsilon of RMSprop")

    def data(self) -> OnPolicy:
        """Return settings to train once on each whole rollout; with a memory, on its sequences of all rows."""
        sequence = None if self.memory is None else self.rollout_steps
        return replace(super().data(), sequence=sequence, tolerates_staleness=True)
