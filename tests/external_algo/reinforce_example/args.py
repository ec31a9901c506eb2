"""REINFORCE's arguments. No torch here, so that help and validation are instant."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from sheeprl.algos.args import AlgoArgs, OnPolicy
from sheeprl.utils.settings import STRUCTURAL, Count, Fractional, NonNegative, Positive, Sizes


class ReinforceArgs(AlgoArgs):
    """REINFORCE with a learned baseline, Williams 1992."""

    algorithm: ClassVar[str] = "reinforce_example.algorithm:Reinforce"
    summary: ClassVar[str] = "REINFORCE with a learned baseline"
    observations: ClassVar[tuple[str, ...]] = ("vector",)
    actions: ClassVar[tuple[str, ...]] = ("discrete",)

    rollout_steps: Count = Field(64, description="rows that every environment plays in a round")
    batch_size: Count = Field(256, description="transitions of a gradient step, over the whole trainer group")
    learning_rate: Positive = Field(5e-3, description="Adam's learning rate")
    anneal: bool = Field(True, description="let the learning rate fall linearly to 0 over the run")
    gamma: Fractional = Field(0.99, description="discount factor")
    value_coef: NonNegative = Field(0.5, description="weight of the baseline's loss")
    entropy_coef: NonNegative = Field(0.01, description="weight of the entropy bonus")
    max_grad_norm: Positive = Field(0.5, description="clip of the gradients' global norm")
    hidden_sizes: Sizes = Field((64, 64), description="widths of the hidden layers", json_schema_extra=STRUCTURAL)

    def data(self) -> OnPolicy:
        """Read each rollout once; advantages are standardized over every minibatch of the whole group."""
        return OnPolicy(self.rollout_steps, self.batch_size, epochs=1, standardize=("advantage",))
