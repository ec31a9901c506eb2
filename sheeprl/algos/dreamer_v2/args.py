"""DreamerV2's arguments and their defaults."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from sheeprl.algos.dreamer.args import DreamerArgs
from sheeprl.utils.settings import (
    DISCOUNTS,
    LEARNING_RATES,
    STRUCTURAL,
    Count,
    Fractional,
    Natural,
    NonNegative,
    Positive,
)


class EarlyDreamerArgs(DreamerArgs):
    """Arguments of the Dreamers before the third."""

    help_first: ClassVar[tuple[str, ...]] = (
        *("model_lr", "actor_lr", "critic_lr", "replay_ratio", "batch_size", "sequence_length", "imag_last"),
    )

    pretrain_steps: Natural = Field(
        100, description="gradient steps when training starts, besides those of replay_ratio"
    )
    sequence_length: Count = Field(50, description="rows of a sequence, besides its context row")
    deter: Count = Field(200, description="length of the deterministic state", json_schema_extra=STRUCTURAL)
    hidden: Count = Field(200, description="width of the dynamics' hidden layers", json_schema_extra=STRUCTURAL)
    units: Count = Field(400, description="width of the other hidden layers", json_schema_extra=STRUCTURAL)
    layers: Count = Field(4, description="hidden layers of encoder, heads and actor", json_schema_extra=STRUCTURAL)
    gamma: Fractional = Field(0.99, description="discount factor", json_schema_extra=DISCOUNTS, gt=0)
    model_lr: Positive = Field(
        3e-4, description="learning rate of Adam for the world model", json_schema_extra=LEARNING_RATES
    )
    actor_lr: Positive = Field(
        8e-5, description="learning rate of Adam for the actor", json_schema_extra=LEARNING_RATES
    )
    critic_lr: Positive = Field(
        8e-5, description="learning rate of Adam for the critic", json_schema_extra=LEARNING_RATES
    )
    adam_eps: Positive = Field(1e-5, description="ε of Adam")
    max_grad_norm: Positive = Field(100.0, description="maximum norm of the gradient of each of the three groups")
    kl_scale: NonNegative = Field(1.0, description="coefficient of the KL divergence")
    free_nats: NonNegative = Field(1.0, description="mean KL divergence of a batch below which it isn't trained")
    continue_scale: NonNegative = Field(
        1.0, description="coefficient of the predicted continuation's loss; 0 discounts by algo.gamma alone"
    )


class DreamerV2Args(EarlyDreamerArgs):
    """Arguments of DreamerV2, Hafner et al. 2021 (2010.02193); the defaults are those of continuous control."""

    algorithm: ClassVar[str] = "sheeprl.algos.dreamer_v2.dreamer_v2:DreamerV2"
    summary: ClassVar[str] = "DreamerV2: discrete world model, KL balancing, actor and critic learn in imagination"

    replay_ratio: NonNegative = Field(0.2, description="gradient steps per policy step, exact")
    classes: Count = Field(
        32, description="classes of each categorical, 2 to 256", json_schema_extra=STRUCTURAL, ge=2, le=256
    )
    categoricals: Count = Field(32, description="categoricals of the stochastic state", json_schema_extra=STRUCTURAL)
    kl_balance: Fractional = Field(0.8, description="share of the KL divergence that trains the prior")
    weight_decay: NonNegative = Field(1e-6, description="fraction by which each step shrinks the weights")
    entropy_coef: NonNegative = Field(1e-4, description="coefficient of the policy's entropy")
    target_every: Count = Field(100, description="gradient steps between copies of the critic to its target")

    @property
    def stored_bytes(self) -> int:
        """Bytes of the stored state."""
        return 4 * self.deter + self.categoricals
