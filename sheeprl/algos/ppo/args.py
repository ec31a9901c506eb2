"""PPO's arguments and their defaults."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from sheeprl.algos.args import OnPolicy, OnPolicyArgs
from sheeprl.utils.settings import STRUCTURAL, Fractional, NonNegative, Positive, Sizes


class PPOArgs(OnPolicyArgs):
    """Arguments of Proximal Policy Optimization, Schulman et al. 2017 (1707.06347)."""

    algorithm: ClassVar[str] = "sheeprl.algos.ppo.ppo:PPO"
    summary: ClassVar[str] = "Proximal Policy Optimization: clipped surrogate, GAE, minibatch epochs"
    help_first: ClassVar[tuple[str, ...]] = (
        *("learning_rate", "gamma", "batch_size", "rollout_steps", "epochs", "clip", "hidden_sizes"),
    )

    learning_rate: Positive = Field(3e-4, description="learning rate of Adam")
    adam_eps: Positive = Field(1e-5, description="epsilon of Adam")
    anneal: bool = Field(False, description="decay learning rate and clip linearly to 0 over the run")
    gamma: Fractional = Field(0.99, description="discount factor")
    gae_lambda: Fractional = Field(0.95, description="lambda of generalized advantage estimation")
    clip: Positive = Field(0.2, description="clip range epsilon of the probability ratio")
    value_coef: NonNegative = Field(0.5, description="coefficient of the value loss")
    entropy_coef: NonNegative = Field(0.0, description="coefficient of the entropy bonus")
    max_grad_norm: Positive = Field(0.5, description="maximum global norm of the gradients")
    normalize_advantage: bool = Field(True, description="standardize advantages over each minibatch")
    hidden_sizes: Sizes = Field(
        (64, 64), description="sizes of the hidden layers of actor and critic", json_schema_extra=STRUCTURAL
    )
    activation: Literal["tanh", "relu", "silu"] = Field(
        "tanh", description="activation of the hidden layers", json_schema_extra=STRUCTURAL
    )
    log_std_init: float = Field(0.0, description="initial log standard deviation of continuous actions")

    def data(self) -> OnPolicy:
        """Return settings to read whole rollouts; `normalize_advantage` standardizes the advantages."""
        standardize = ("advantage",) if self.normalize_advantage else ()
        return OnPolicy(self.rollout_steps, self.batch_size, self.epochs, standardize)
