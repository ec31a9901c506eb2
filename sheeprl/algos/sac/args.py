"""SAC's arguments and their defaults."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from sheeprl.algos.args import OffPolicyArgs
from sheeprl.utils.settings import STRUCTURAL, Fractional, Positive, Sizes


class SACArgs(OffPolicyArgs):
    """Arguments of Soft Actor-Critic with a learned temperature, Haarnoja et al. 2018 (1812.05905)."""

    algorithm: ClassVar[str] = "sheeprl.algos.sac.sac:SAC"
    summary: ClassVar[str] = "Soft Actor-Critic: twin critics, squashed Gaussian policy, learned temperature"
    actions: ClassVar[tuple[str, ...]] = ("continuous",)
    bounded_actions: ClassVar[bool] = True
    help_first: ClassVar[tuple[str, ...]] = (
        *("actor_lr", "critic_lr", "gamma", "batch_size", "replay_ratio", "learning_starts", "hidden_sizes"),
    )

    actor_lr: Positive = Field(3e-4, description="learning rate of Adam for the actor")
    critic_lr: Positive = Field(3e-4, description="learning rate of Adam for the critics")
    alpha_lr: Positive = Field(3e-4, description="learning rate of Adam for the temperature")
    gamma: Fractional = Field(0.99, description="discount factor")
    tau: Fractional = Field(0.005, description="step size of the target critics towards the critics")
    alpha: Positive = Field(1.0, description="initial temperature, the coefficient of the entropy")
    learn_alpha: bool = Field(True, description="learn the temperature; false fixes it at algo.alpha")
    target_entropy: float | None = Field(None, description="target of the policy's entropy; default -dim(action)")
    hidden_sizes: Sizes = Field(
        (256, 256), description="sizes of the hidden layers of actor and critics", json_schema_extra=STRUCTURAL
    )
