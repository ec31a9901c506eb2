"""SAC's arguments, with the paper's defaults."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from sheeprl.algos.args import OffPolicyArgs
from sheeprl.utils.settings import STRUCTURAL, Fractional, Positive, Sizes


class SACArgs(OffPolicyArgs):
    """Soft Actor-Critic with a learned temperature, Haarnoja et al. 2018 (1812.05905)."""

    algorithm: ClassVar[str] = "sheeprl.algos.sac.sac:SAC"
    summary: ClassVar[str] = "Soft Actor-Critic: twin critics, squashed Gaussian policy, learned temperature"
    actions: ClassVar[tuple[str, ...]] = ("continuous",)
    bounded_actions: ClassVar[bool] = True

    actor_lr: Positive = Field(3e-4, description="Adam's learning rate for the actor")
    critic_lr: Positive = Field(3e-4, description="Adam's learning rate for the critics")
    alpha_lr: Positive = Field(3e-4, description="Adam's learning rate for the temperature")
    gamma: Fractional = Field(0.99, description="discount factor")
    tau: Fractional = Field(0.005, description="step of the target critics towards the critics")
    alpha: Positive = Field(1.0, description="initial temperature, the weight of the entropy")
    learn_alpha: bool = Field(True, description="learn the temperature; false keeps it at algo.alpha")
    target_entropy: float | None = Field(None, description="entropy that alpha is learned for; default -dim(action)")
    hidden_sizes: Sizes = Field(
        (256, 256), description="widths of the hidden layers of actor and critics", json_schema_extra=STRUCTURAL
    )
