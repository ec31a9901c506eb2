"""TD3's arguments and their defaults."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from sheeprl.algos.args import TDArgs
from sheeprl.utils.settings import (
    LEARNING_RATES,
    STEP_SIZES,
    STRUCTURAL,
    Count,
    Fractional,
    NonNegative,
    Positive,
    Sizes,
    needs,
)


class TD3Args(TDArgs):
    """Arguments of Twin Delayed DDPG, Fujimoto et al. 2018 (1802.09477)."""

    algorithm: ClassVar[str] = "sheeprl.algos.td3.td3:TD3"
    summary: ClassVar[str] = "Twin Delayed DDPG: twin critics, deterministic policy, smoothed targets"
    actions: ClassVar[tuple[str, ...]] = ("continuous",)
    bounded_actions: ClassVar[bool] = True

    actor_lr: Positive = Field(
        3e-4, description="learning rate of Adam for the actor", json_schema_extra=LEARNING_RATES
    )
    critic_lr: Positive = Field(
        3e-4, description="learning rate of Adam for the critics", json_schema_extra=LEARNING_RATES
    )
    tau: Fractional = Field(
        0.005, description="step size of the target networks towards the trained ones", json_schema_extra=STEP_SIZES
    )
    policy_delay: Count = Field(2, description="gradient steps per step of actor and target networks")
    exploration_noise: NonNegative = Field(0.1, description="standard deviation of the noise on a player's actions")
    target_noise: NonNegative = Field(0.2, description="standard deviation of the noise on the target actor's actions")
    noise_clip: NonNegative = Field(
        0.5,
        description="bound of the noise on the target actor's actions",
        json_schema_extra=needs("algo.target_noise"),
    )
    hidden_sizes: Sizes = Field(
        (256, 256), description="sizes of the hidden layers of actor and critics", json_schema_extra=STRUCTURAL
    )
