"""DreamerV1's arguments and their defaults."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from sheeprl.algos.dreamer_v2.args import EarlyDreamerArgs
from sheeprl.utils.settings import LEARNING_RATES, STRUCTURAL, Count, NonNegative, Positive


class DreamerV1Args(EarlyDreamerArgs):
    """Arguments of Dreamer, Hafner et al. 2020 (1912.01603)."""

    algorithm: ClassVar[str] = "sheeprl.algos.dreamer_v1.dreamer_v1:DreamerV1"
    summary: ClassVar[str] = "DreamerV1: Gaussian world model, the actor learns by gradients through it"
    actions: ClassVar[tuple[str, ...]] = ("continuous",)

    replay_ratio: NonNegative = Field(0.1, description="gradient steps per policy step, exact")
    batch_size: Count = Field(50, description="sequences per batch of the whole trainer group")
    stoch: Count = Field(30, description="length of the stochastic state", json_schema_extra=STRUCTURAL)
    model_lr: Positive = Field(
        6e-4, description="learning rate of Adam for the world model", json_schema_extra=LEARNING_RATES
    )
    adam_eps: Positive = Field(1e-7, description="ε of Adam")
    free_nats: NonNegative = Field(3.0, description="mean KL divergence of a batch below which it isn't trained")
    exploration_noise: NonNegative = Field(0.3, description="standard deviation of the noise on played actions")

    @property
    def stored_bytes(self) -> int:
        """Bytes of the stored state."""
        return 4 * (self.deter + self.stoch)
