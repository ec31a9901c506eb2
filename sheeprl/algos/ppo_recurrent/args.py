"""Recurrent PPO's arguments and their defaults."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from sheeprl.algos.args import AlgoArgs, OnPolicy
from sheeprl.algos.ppo.args import PPOArgs
from sheeprl.utils.settings import STRUCTURAL, Count, Sizes, needs


class MemoryArgs(AlgoArgs):
    """Arguments of `WithMemory` besides those of an actor-critic algorithm. Derive from it before the other base."""

    memory: Literal["lstm", "gru"] | None = Field(
        None, description="recurrent cell that actor and critic share; null for none", json_schema_extra=STRUCTURAL
    )
    memory_size: Count = Field(
        64, description="size of the memory's state", json_schema_extra=STRUCTURAL | needs("algo.memory")
    )


class RecurrentPPOArgs(MemoryArgs, PPOArgs):
    """Arguments of PPO with a memory."""

    algorithm: ClassVar[str] = "sheeprl.algos.ppo_recurrent.ppo_recurrent:RecurrentPPO"
    summary: ClassVar[str] = "Proximal Policy Optimization with a memory (LSTM or GRU), trained on sequences"
    help_first: ClassVar[tuple[str, ...]] = (
        *("learning_rate", "gamma", "batch_size", "rollout_steps", "sequence", "epochs", "clip", "memory"),
        *("memory_size", "hidden_sizes"),
    )

    memory: Literal["lstm", "gru"] = Field(
        "lstm", description="recurrent cell that actor and critic share", json_schema_extra=STRUCTURAL
    )
    sequence: Count = Field(16, description="rows of a training sequence, through which gradients flow back in time")
    hidden_sizes: Sizes = Field(
        (64,),
        description="sizes of the hidden layers of actor and critic, after the memory",
        json_schema_extra=STRUCTURAL,
    )

    def data(self) -> OnPolicy:
        """Return settings to read whole rollouts in sequences."""
        return replace(super().data(), sequence=self.sequence)
