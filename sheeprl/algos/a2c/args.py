"""A2C's arguments and their defaults."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from sheeprl.algos.args import OnPolicy
from sheeprl.algos.ppo.args import ActorCriticArgs
from sheeprl.utils.settings import LEARNING_RATES, Count, Fractional, Positive


class A2CArgs(ActorCriticArgs):
    """Arguments of A2C, the synchronous form of A3C, Mnih et al. 2016 (1602.01783)."""

    algorithm: ClassVar[str] = "sheeprl.algos.a2c.a2c:A2C"
    summary: ClassVar[str] = "Advantage Actor-Critic: one policy gradient step per short rollout"
    help_first: ClassVar[tuple[str, ...]] = (
        *("learning_rate", "gamma", "rollout_steps", "entropy_coef", "hidden_sizes"),
    )

    rollout_steps: Count = Field(5, description="rows per environment in each rollout; each gives one gradient step")
    learning_rate: Positive = Field(7e-4, description="learning rate of RMSprop", json_schema_extra=LEARNING_RATES)
    gae_lambda: Fractional = Field(1.0, description="lambda of generalized advantage estimation; 1 for n-step returns")
    normalize_advantage: bool = Field(False, description="standardize advantages over each rollout")
    rmsprop_alpha: Fractional = Field(0.99, description="decay of RMSprop's mean of squared gradients")
    rmsprop_eps: Positive = Field(1e-5, description="epsilon of RMSprop")
    rmsprop_tf: bool = Field(
        True, description="RMSprop as in TensorFlow and A3C, with epsilon inside of the root; false uses torch's"
    )

    def data(self) -> OnPolicy:
        """Return settings to train once on each whole rollout."""
        return OnPolicy(self.rollout_steps, batch_size=None, epochs=1, standardize=self.standardize)
