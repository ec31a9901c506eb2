"""R2D2's arguments and their defaults."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from sheeprl.algos.args import OffPolicy, OffPolicyArgs
from sheeprl.algos.dqn.args import TargetQArgs
from sheeprl.utils.settings import (
    DISCOUNTS,
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


class R2D2Args(TargetQArgs, OffPolicyArgs):
    """Arguments of R2D2, Kapturowski et al. 2019 (ICLR, "Recurrent experience replay in distributed RL")."""

    algorithm: ClassVar[str] = "sheeprl.algos.r2d2.r2d2:R2D2"
    summary: ClassVar[str] = "Recurrent replay: double, dueling, n-step Q-learning with an LSTM on stored sequences"
    help_first: ClassVar[tuple[str, ...]] = (
        *("learning_rate", "gamma", "batch_size", "replay_ratio", "sequence", "burn_in", "n_step", "memory_size"),
        *("target_every", "hidden_sizes"),
    )

    learning_rate: Positive = Field(1e-4, description="learning rate of Adam", json_schema_extra=LEARNING_RATES)
    adam_eps: Positive = Field(1e-3, description="epsilon of Adam")
    max_grad_norm: Positive | None = Field(40.0, description="maximum global norm of the gradients; null for no limit")
    batch_size: Count = Field(64, description="sequences per batch of the whole trainer group")
    replay_ratio: NonNegative = Field(0.01, description="gradient steps per policy step, exact")
    learning_starts: Natural = Field(1000, description="policy steps with random actions before training starts")
    gamma: Fractional = Field(0.997, description="discount factor", json_schema_extra=DISCOUNTS)
    n_step: Count = Field(5, description="steps of reward before the value of the next observation")
    sequence: Count = Field(80, description="rows of a training sequence, through which gradients flow back in time")
    burn_in: Natural = Field(40, description="rows before the sequence that only warm up the memory")
    memory_size: Count = Field(512, description="size of the LSTM's state", json_schema_extra=STRUCTURAL)
    hidden_sizes: Sizes = Field(
        (512,), description="sizes of the hidden layers after the memory", json_schema_extra=STRUCTURAL
    )
    dueling: bool = Field(
        True, description="sum of a value and the actions' advantages (1511.06581)", json_schema_extra=STRUCTURAL
    )
    target_every: Count = Field(2500, description="gradient steps per step of the target network")
    rescaling: NonNegative | None = Field(
        1e-3, description="epsilon of the values' rescaling sign(x) (sqrt(|x| + 1) - 1) + epsilon x; null for none"
    )
    prioritized: bool = Field(True, description="sample sequences by their TD errors")
    priority_max: Fractional = Field(
        0.9,
        description="eta: a sequence's priority is eta max |error| + (1 - eta) mean |error|",
        json_schema_extra=needs("algo.prioritized"),
    )
    alpha: Fractional = Field(
        0.9, description="exponent of the priorities", json_schema_extra=needs("algo.prioritized")
    )
    beta: Fractional = Field(
        0.6, description="exponent of the importance weights; 0 for none", json_schema_extra=needs("algo.prioritized")
    )

    @property
    def stored_bytes(self) -> int:
        """Bytes of the stored state: hidden and cell state of the LSTM."""
        return 2 * 4 * self.memory_size

    def data(self) -> OffPolicy:
        """Return settings to read sequences: the burn-in, the training rows, and a row to bootstrap from."""
        from sheeprl.buffer.priorities import Prioritized  # imports NumPy, which would delay the help
        from sheeprl.buffer.sequences import Sequences

        sampler = Sequences(self.burn_in + self.sequence + 1, context=True)
        prioritized = Prioritized(self.alpha, self.beta, self.beta) if self.prioritized else None
        return replace(super().data(), sampler=sampler, prioritized=prioritized)
