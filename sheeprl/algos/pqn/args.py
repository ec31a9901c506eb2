"""PQN's arguments and their defaults."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from sheeprl.algos.args import OnPolicyArgs
from sheeprl.algos.dqn.args import QArgs
from sheeprl.utils.settings import DISCOUNTS, LEARNING_RATES, STRUCTURAL, Count, Fractional, Positive, needs


class PQNArgs(QArgs, OnPolicyArgs):
    """Arguments of PQN, Gallici et al. 2025 (2407.04811)."""

    algorithm: ClassVar[str] = "sheeprl.algos.pqn.pqn:PQN"
    summary: ClassVar[str] = "Parallelised Q-learning: Q(lambda) on rollouts, without replay or target network"
    help_first: ClassVar[tuple[str, ...]] = (
        *("learning_rate", "gamma", "q_lambda", "batch_size", "rollout_steps", "epochs", "hidden_sizes"),
    )

    learning_rate: Positive = Field(2.5e-4, description="learning rate of RAdam", json_schema_extra=LEARNING_RATES)
    gamma: Fractional = Field(0.99, description="discount factor", json_schema_extra=DISCOUNTS)
    q_lambda: Fractional = Field(0.65, description="lambda of the returns: 0 for one step, 1 for the whole rollout")
    rollout_steps: Count = Field(32, description="rows per environment in each rollout")
    batch_size: Count = Field(128, description="transitions per minibatch of the whole trainer group")
    epochs: Count = Field(2, description="passes over each rollout")
    exploration_fraction: Positive = Field(
        0.5,
        le=1.0,
        description="fraction of the run in which epsilon falls linearly to final_epsilon",
        json_schema_extra=needs("algo.env_epsilon=null"),
    )
    layer_norm: bool = Field(
        True, description="normalize the outputs of each hidden layer (LayerNorm)", json_schema_extra=STRUCTURAL
    )
