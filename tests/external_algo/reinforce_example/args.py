"""REINFORCE's arguments. This file doesn't import torch, so help and validation respond at once."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from sheeprl.algos.args import AlgoArgs, OnPolicy
from sheeprl.utils.settings import STRUCTURAL, Count, Fractional, NonNegative, Positive, Sizes


class ReinforceArgs(AlgoArgs):
    """Arguments of REINFORCE with a learned baseline, Williams 1992."""

    algorithm: ClassVar[str] = "reinforce_example.algorithm:Reinforce"
    summary: ClassVar[str] = "REINFORCE with a learned baseline"
    observations: ClassVar[tuple[str, ...]] = ("vector",)
    actions: ClassVar[tuple[str, ...]] = ("discrete",)

    rollout_steps: Count = Field(64, description="rows per environment in each rollout")
    batch_size: Count = Field(256, description="transitions per gradient step of the whole trainer group")
    learning_rate: Positive = Field(5e-3, description="learning rate of Adam")
    anneal: bool = Field(True, description="decay the learning rate linearly to 0 over the run")
    gamma: Fractional = Field(0.99, description="discount factor")
    value_coef: NonNegative = Field(0.5, description="coefficient of the baseline's loss")
    entropy_coef: NonNegative = Field(0.01, description="coefficient of the entropy bonus")
    max_grad_norm: Positive = Field(0.5, description="maximum global norm of the gradients")
    hidden_sizes: Sizes = Field((64, 64), description="sizes of the hidden layers", json_schema_extra=STRUCTURAL)

    def data(self) -> OnPolicy:
        """Return settings to read each rollout once, with standardized advantages."""
        return OnPolicy(self.rollout_steps, self.batch_size, epochs=1, standardize=("advantage",))
