"""PPO's arguments and their defaults, and those that it shares with other actor-critic algorithms."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from sheeprl.algos.args import OneOptimizerArgs, OnPolicy, OnPolicyArgs
from sheeprl.utils.settings import (
    DISCOUNTS,
    STRUCTURAL,
    Fractional,
    NonNegative,
    Positive,
    Sizes,
    needs,
    searched,
    searched_between,
)


class ActorCriticArgs(OneOptimizerArgs):
    """Arguments of `ActorCritic`: networks, advantages and coefficients of the losses."""

    gamma: Fractional = Field(0.99, description="discount factor", json_schema_extra=DISCOUNTS)
    gae_lambda: Fractional = Field(
        0.95,
        description="lambda of generalized advantage estimation",
        json_schema_extra=searched(0.8, 0.9, 0.95, 0.98, 1.0),
    )
    value_coef: NonNegative = Field(0.5, description="coefficient of the value loss")
    entropy_coef: NonNegative = Field(
        0.0, description="coefficient of the entropy bonus", json_schema_extra=searched_between(1e-5, 0.1, log=True)
    )
    final_entropy_coef: NonNegative | None = Field(
        None, description="coefficient of the entropy bonus at the end of the run, reached linearly; null keeps it"
    )
    max_grad_norm: Positive = Field(0.5, description="maximum global norm of the gradients")
    normalize_advantage: bool = Field(True, description="standardize advantages over each minibatch")
    hidden_sizes: Sizes = Field(
        (64, 64), description="sizes of the hidden layers of actor and critic", json_schema_extra=STRUCTURAL
    )
    activation: Literal["tanh", "relu", "silu"] = Field(
        "tanh", description="activation of the hidden layers", json_schema_extra=STRUCTURAL
    )
    normalize_obs: bool = Field(
        False, description="standardize vectors by their running mean and deviation", json_schema_extra=STRUCTURAL
    )
    normalize_reward: bool = Field(
        False,
        description="divide rewards by the running deviation of the discounted return",
        json_schema_extra=STRUCTURAL,
    )
    log_std_init: float = Field(
        0.0, description="initial log standard deviation of continuous actions", json_schema_extra=needs("continuous")
    )

    @property
    def learning_rate_end(self) -> float | None:
        """Return the learning rate at the end of the run; None where it is constant."""
        return self.final_learning_rate

    @property
    def standardize(self) -> tuple[str, ...]:
        """Return the keys of the prepared rollout to standardize over each minibatch."""
        return ("advantage",) if self.normalize_advantage else ()


class PPOArgs(ActorCriticArgs, OnPolicyArgs):
    """Arguments of Proximal Policy Optimization, Schulman et al. 2017 (1707.06347)."""

    algorithm: ClassVar[str] = "sheeprl.algos.ppo.ppo:PPO"
    summary: ClassVar[str] = "Proximal Policy Optimization: clipped surrogate, GAE, minibatch epochs"
    help_first: ClassVar[tuple[str, ...]] = (
        *("learning_rate", "gamma", "batch_size", "rollout_steps", "epochs", "clip", "hidden_sizes"),
    )

    adam_eps: Positive = Field(1e-5, description="epsilon of Adam")
    anneal: bool = Field(False, description="decay learning rate and clip linearly to 0 over the run")
    clip: Positive = Field(
        0.2,
        description="clip range epsilon of the probability ratio",
        json_schema_extra=searched(0.1, 0.2, 0.3, 0.4),
    )
    final_clip: NonNegative | None = Field(
        None, description="clip range at the end of the run, reached linearly; null keeps it constant"
    )
    clip_value: Positive | None = Field(
        None, description="clip range of the value around the rollout's value; null doesn't clip the value loss"
    )
    target_kl: Positive | None = Field(
        None,
        description="end a round's training when a minibatch's KL divergence exceeds 1.5 times this; null never does",
    )
    desired_kl: Positive | None = Field(
        None, description="adapt the learning rate to this KL divergence per minibatch; null doesn't adapt it"
    )
    min_learning_rate: Positive = Field(
        1e-5,
        description="lower bound of the learning rate that desired_kl adapts",
        json_schema_extra=needs("algo.desired_kl"),
    )
    max_learning_rate: Positive = Field(
        1e-2,
        description="upper bound of the learning rate that desired_kl adapts",
        json_schema_extra=needs("algo.desired_kl"),
    )

    @model_validator(mode="after")
    def _check_adaptive_rate(self) -> PPOArgs:
        """Reject a learning rate that is scheduled and adapted, or that starts out of its bounds."""
        if self.desired_kl is None:
            return self
        if self.anneal or self.final_learning_rate is not None:
            setting = "final_learning_rate" if self.final_learning_rate is not None else "anneal"
            raise ValueError(
                f"desired_kl adapts the learning rate, so {setting} can't schedule it; leave one of them out "
                "(final_clip anneals the clip alone)"
            )
        if not self.min_learning_rate <= self.learning_rate <= self.max_learning_rate:
            raise ValueError(
                f"learning_rate={self.learning_rate:g} is outside of min_learning_rate={self.min_learning_rate:g} and "
                f"max_learning_rate={self.max_learning_rate:g}, the bounds that desired_kl respects; move a bound"
            )
        return self

    @property
    def learning_rate_end(self) -> float | None:
        """Return the learning rate at the end of the run; None where it is constant."""
        return 0.0 if self.anneal and self.final_learning_rate is None else self.final_learning_rate

    @property
    def clip_end(self) -> float | None:
        """Return the clip at the end of the run; None where it is constant."""
        return 0.0 if self.anneal and self.final_clip is None else self.final_clip

    def data(self) -> OnPolicy:
        """Return settings to read whole rollouts; `normalize_advantage` standardizes the advantages."""
        return OnPolicy(self.rollout_steps, self.batch_size, self.epochs, self.standardize)
