"""SAC's arguments and their defaults."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from sheeprl.algos.args import EncoderArgs, TDArgs
from sheeprl.utils.settings import (
    LEARNING_RATES,
    STEP_SIZES,
    STRUCTURAL,
    Count,
    Fractional,
    Natural,
    Positive,
    Sizes,
    needs,
)


class SACArgs(EncoderArgs, TDArgs):
    """Arguments of Soft Actor-Critic with a learned temperature, Haarnoja et al. 2018 (1812.05905)."""

    algorithm: ClassVar[str] = "sheeprl.algos.sac.sac:SAC"
    summary: ClassVar[str] = "Soft Actor-Critic: ensemble of critics, stochastic policy, learned temperature"
    actions: ClassVar[tuple[str, ...]] = ("discrete", "continuous")
    bounded_actions: ClassVar[bool] = True
    help_first: ClassVar[tuple[str, ...]] = (
        *("actor_lr", "critic_lr", "gamma", "batch_size", "replay_ratio", "learning_starts", "hidden_sizes"),
    )

    actor_lr: Positive = Field(
        3e-4, description="learning rate of Adam for the actor", json_schema_extra=LEARNING_RATES
    )
    critic_lr: Positive = Field(
        3e-4, description="learning rate of Adam for the critics", json_schema_extra=LEARNING_RATES
    )
    alpha_lr: Positive = Field(
        3e-4,
        description="learning rate of Adam for the temperature",
        json_schema_extra=needs("algo.learn_alpha") | LEARNING_RATES,
    )
    tau: Fractional = Field(
        0.005, description="step size of the target critics towards the critics", json_schema_extra=STEP_SIZES
    )
    encoder_tau: Fractional | None = Field(
        None,
        description="step size of the target encoder of pictures towards the encoder; default algo.tau",
        json_schema_extra=needs("pictures"),
    )
    target_delay: Count = Field(1, description="gradient steps per update of the targets")
    alpha: Positive = Field(1.0, description="initial temperature, the coefficient of the entropy")
    learn_alpha: bool = Field(True, description="learn the temperature; false fixes it at algo.alpha")
    target_entropy: float | None = Field(
        None,
        description="target of the policy's entropy; default -dim(action), for discrete actions target_entropy_scale "
        "* log(number of permitted choices)",
        json_schema_extra=needs("algo.learn_alpha"),
    )
    target_entropy_scale: Fractional = Field(
        0.89,
        description="target of the entropy of discrete actions, as a fraction of the uniform policy's",
        json_schema_extra=needs("discrete", "algo.learn_alpha"),
    )
    critics: Count = Field(2, description="number of critics", json_schema_extra=STRUCTURAL)
    target_subset: Count | None = Field(
        None, description="critics in the minimum of a target, drawn for each gradient step; default all"
    )
    actor_value: Literal["min", "mean"] = Field("min", description="value that the actor maximizes, over the critics")
    policy_delay: Count = Field(1, description="gradient steps per step of actor and temperature")
    hidden_sizes: Sizes = Field(
        (256, 256), description="sizes of the hidden layers of actor and critics", json_schema_extra=STRUCTURAL
    )
    cnn: Literal["auto", "nature", "small", "deep"] = Field(
        "auto",
        description="CNN for pictures; auto chooses it by their size",
        json_schema_extra=STRUCTURAL | needs("pictures"),
    )
    cnn_features: Count = Field(
        50,
        description="size to which actor and critics project the features of pictures",
        json_schema_extra=STRUCTURAL | needs("pictures"),
    )
    random_shift: Natural = Field(
        0,
        description="largest shift of the pictures of a batch in pixels, at random for each sample; 0 for none",
        json_schema_extra=needs("pictures"),
    )

    @field_validator("target_subset")
    @classmethod
    def _check_subset(cls, size: int | None, info: ValidationInfo) -> int | None:
        """Reject a subset that has more critics than there are."""
        critics = info.data.get("critics")
        if size is not None and critics is not None and size > critics:
            raise ValueError(f"must be at most algo.critics={critics}")
        return size
