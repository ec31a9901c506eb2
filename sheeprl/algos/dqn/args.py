"""DQN's arguments and their defaults, and those that it shares with other forms of Q-learning."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from sheeprl.algos.args import OneOptimizerArgs, TDArgs
from sheeprl.utils.settings import (
    LEARNING_RATES,
    STRUCTURAL,
    Count,
    Fractional,
    Natural,
    NonNegative,
    Positive,
    Sizes,
    needs,
)


class QArgs(OneOptimizerArgs):
    """Arguments of `QLearning`: network, exploration and optimizer."""

    actions: ClassVar[tuple[str, ...]] = ("discrete",)

    learning_rate: Positive = Field(
        5e-4, description="learning rate of the optimizer", json_schema_extra=LEARNING_RATES
    )
    max_grad_norm: Positive | None = Field(10.0, description="maximum global norm of the gradients; null for no limit")
    epsilon: Fractional = Field(
        1.0,
        description="probability of a random action at the start of the run",
        json_schema_extra=needs("algo.env_epsilon=null"),
    )
    final_epsilon: Fractional = Field(
        0.05,
        description="probability of a random action after exploration_fraction",
        json_schema_extra=needs("algo.env_epsilon=null"),
    )
    exploration_fraction: Positive = Field(
        0.1,
        le=1.0,
        description="fraction of the run in which epsilon falls linearly to final_epsilon",
        json_schema_extra=needs("algo.env_epsilon=null"),
    )
    env_epsilon: Fractional | None = Field(
        None,
        description="base of a constant epsilon per environment in place of the schedule: base^(1 + env_epsilon_power "
        "i / (N - 1)) for environment i of N (0.4 in Ape-X, 1803.00933); null uses the schedule",
    )
    env_epsilon_power: NonNegative = Field(
        7.0, description="spread of the epsilons of env_epsilon", json_schema_extra=needs("algo.env_epsilon")
    )
    hidden_sizes: Sizes = Field(
        (256, 256), description="sizes of the hidden layers after the encoder", json_schema_extra=STRUCTURAL
    )
    layer_norm: bool = Field(
        False, description="normalize the outputs of each hidden layer (LayerNorm)", json_schema_extra=STRUCTURAL
    )


class TargetQArgs(QArgs):
    """Arguments of Q-learning with a target network."""

    adam_eps: Positive = Field(1e-8, description="epsilon of Adam")
    tau: Fractional = Field(1.0, description="step size of the target network towards the trained one; 1 copies it")
    target_every: Count = Field(250, description="gradient steps per step of the target network")
    double: bool = Field(True, description="choose the action of a target by the trained network (1509.06461)")
    dueling: bool = Field(
        False, description="sum of a value and the actions' advantages (1511.06581)", json_schema_extra=STRUCTURAL
    )


class DQNArgs(TargetQArgs, TDArgs):
    """Arguments of DQN, Mnih et al. 2015, with the extensions of Rainbow, Hessel et al. 2018 (1710.02298)."""

    algorithm: ClassVar[str] = "sheeprl.algos.dqn.dqn:DQN"
    summary: ClassVar[str] = "Deep Q-learning: double, dueling, n-step, prioritized, distributional, noisy"
    help_first: ClassVar[tuple[str, ...]] = (
        *("learning_rate", "gamma", "batch_size", "replay_ratio", "learning_starts", "target_every", "double"),
        *("dueling", "n_step", "prioritized", "head", "noisy", "hidden_sizes"),
    )

    batch_size: Count = Field(64, description="transitions per batch of the whole trainer group")
    replay_ratio: NonNegative = Field(0.25, description="gradient steps per policy step, exact")
    learning_starts: Natural = Field(1000, description="policy steps with random actions before training starts")
    noisy: bool = Field(
        False,
        description="explore by learned noise in the layers (1706.10295) instead of by epsilon",
        json_schema_extra=STRUCTURAL,
    )
    noisy_std: Positive = Field(
        0.5, description="initial noise sigma_0 of noisy layers", json_schema_extra=needs("algo.noisy")
    )
    initial_priority: Literal["highest", "error"] = Field(
        "highest",
        description="priority of new transitions: the highest one so far, or the TD error, which the player computes "
        "(1803.00933)",
    )
    head: Literal["value", "c51", "qr", "iqn"] = Field(
        "value",
        description="output per action: value; or a distribution of returns, on fixed atoms (c51, 1707.06887), by "
        "its quantiles (qr, 1710.10044) or by quantiles at random fractions (iqn, 1806.06923)",
        json_schema_extra=STRUCTURAL,
    )
    atoms: Count = Field(
        51, ge=2, description="atoms of head c51", json_schema_extra=STRUCTURAL | needs("algo.head=c51")
    )
    v_min: float = Field(-10.0, description="lowest atom of head c51", json_schema_extra=needs("algo.head=c51"))
    v_max: float = Field(10.0, description="highest atom of head c51", json_schema_extra=needs("algo.head=c51"))
    quantiles: Count = Field(
        50,
        description="quantiles of head qr; fractions of head iqn per sample",
        json_schema_extra=STRUCTURAL | needs("algo.head=qr|iqn"),
    )
    cosines: Count = Field(
        64,
        description="cosines that represent a fraction of head iqn",
        json_schema_extra=STRUCTURAL | needs("algo.head=iqn"),
    )

    @model_validator(mode="after")
    def _check_together(self) -> DQNArgs:
        """Reject atoms without a range, noisy layers with LayerNorm, and initial priorities that nothing reads."""
        if self.v_min >= self.v_max:
            raise ValueError(f"v_min={self.v_min:g} must be below v_max={self.v_max:g}")
        if self.noisy and self.layer_norm:
            raise ValueError("noisy=true has no layer_norm; set one of them to false")
        if self.initial_priority == "error" and not self.prioritized:
            raise ValueError("initial_priority=error needs prioritized=true; set that, or initial_priority=highest")
        return self
