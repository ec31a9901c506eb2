"""PPO's arguments, with the defaults that its users know."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from sheeprl.algos.args import OnPolicy, OnPolicyArgs
from sheeprl.utils.settings import STRUCTURAL, Fractional, NonNegative, Positive, Sizes


class PPOArgs(OnPolicyArgs):
    """Proximal Policy Optimization, Schulman et al. 2017."""

    algorithm: ClassVar[str] = "sheeprl.algos.ppo.ppo:PPO"
    summary: ClassVar[str] = "Proximal Policy Optimization: clipped surrogate, GAE, minibatch epochs"

    learning_rate: Positive = Field(3e-4, description="Adam's learning rate")
    adam_eps: Positive = Field(1e-5, description="Adam's epsilon")
    anneal: bool = Field(False, description="let learning rate and clip fall linearly to 0 over the run")
    gamma: Fractional = Field(0.99, description="discount factor")
    gae_lambda: Fractional = Field(0.95, description="lambda of generalized advantage estimation")
    clip: Positive = Field(0.2, description="clip of the probability ratio")
    value_coef: NonNegative = Field(0.5, description="weight of the value loss")
    entropy_coef: NonNegative = Field(0.0, description="weight of the entropy bonus")
    max_grad_norm: Positive = Field(0.5, description="clip of the gradients' global norm")
    normalize_advantage: bool = Field(True, description="standardize advantages per minibatch, over the whole group")
    hidden_sizes: Sizes = Field(
        (64, 64), description="widths of the hidden layers of actor and critic", json_schema_extra=STRUCTURAL
    )
    activation: Literal["tanh", "relu", "silu"] = Field(
        "tanh", description="activation of the hidden layers", json_schema_extra=STRUCTURAL
    )
    log_std_init: float = Field(0.0, description="initial log standard deviation of continuous actions")

    def data(self) -> OnPolicy:
        """Read whole rollouts."""
        standardize = ("advantage",) if self.normalize_advantage else ()
        return OnPolicy(self.rollout_steps, self.batch_size, self.epochs, standardize)
