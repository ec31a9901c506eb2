"""What every algorithm's arguments share: no torch here, so that help and validation are instant."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from sheeprl.utils.settings import Count, Natural, NonNegative, Section

if TYPE_CHECKING:
    from sheeprl.buffer.priorities import Prioritized
    from sheeprl.buffer.sampler import Sampler


@dataclass(frozen=True)
class OnPolicy:
    """Learn from each round's rollout once, `epochs` times in shuffled minibatches, then throw it away.

    Args:
        rollout_steps: rows that every environment adds in a round, T.
        batch_size: transitions of a minibatch, over the whole trainer group; None for the whole rollout.
        epochs: passes over the rollout.
        standardize: keys of the prepared rollout that are standardized per minibatch, over the whole group.
    """

    rollout_steps: int
    batch_size: int | None
    epochs: int
    standardize: tuple[str, ...] = ()

    is_off_policy: ClassVar[bool] = False
    """The gradient steps of a rollout are taken in one call, or not at all."""
    learning_starts: ClassVar[int] = 0
    prioritized: ClassVar[None] = None
    feeds_back: ClassVar[bool] = False

    @property
    def sampler(self) -> Sampler:
        """The buffer is read whole."""
        from sheeprl.buffer.samplers import Rollout  # brings NumPy, for which help doesn't wait

        return Rollout()

    @property
    def fragment_rows(self) -> int:
        """A rollout is one fragment per player."""
        return self.rollout_steps

    def minibatches(self, rows: int) -> int:
        """Minibatches of an epoch over a rollout of `rows` = T × B rows."""
        return math.ceil(rows / self.batch_size) if self.batch_size else 1

    def due_gradient_steps(self, policy_steps: int, gradient_steps: int, rows: int) -> int:
        """Return the gradient steps to take after a round of `rows` rows."""
        return self.epochs * self.minibatches(rows)


@dataclass(frozen=True)
class OffPolicy:
    """Learn from samples of everything stored, `replay_ratio` gradient steps per policy step.

    Args:
        batch_size: rows (or sequences) of a batch, over the whole trainer group.
        replay_ratio: gradient steps per policy step, held exactly: it is taken as the decimal number that was written.
        learning_starts: policy steps played at random before learning starts.
        sampler: what a sample is; None for single transitions.
        fragment_rows: rows of a fragment unless `players.fragment_rows` says otherwise.
        writes_back: whether losses return values to write back into the sampled rows.
        prioritized: draw by the priorities that losses return; None draws uniformly.
    """

    is_off_policy: ClassVar[bool] = True
    """Gradient steps that a round leaves undone are due in the next."""

    batch_size: int
    replay_ratio: float
    learning_starts: int = 0
    sampler: Sampler | None = None
    fragment_rows: int = 16
    writes_back: bool = False
    prioritized: Prioritized | None = None

    @property
    def feeds_back(self) -> bool:
        """Whether losses give the buffer something."""
        return self.writes_back or self.prioritized is not None

    def total_gradient_steps(self, policy_steps: int) -> int:
        """Return floor(replay_ratio × max(0, policy_steps − learning_starts)), in exact arithmetic."""
        return math.floor(Fraction(str(self.replay_ratio)) * max(0, policy_steps - self.learning_starts))

    def due_gradient_steps(self, policy_steps: int, gradient_steps: int, rows: int) -> int:
        """Return the gradient steps to take after `policy_steps` policy steps, if `gradient_steps` are done."""
        return max(0, self.total_gradient_steps(policy_steps) - gradient_steps)


class AlgoArgs(Section):
    """Arguments of one algorithm, and the facts of it that can be told without importing torch."""

    algorithm: ClassVar[str] = ""
    """Path of the Algorithm, `package.module:Class`."""
    summary: ClassVar[str] = ""
    """One line for `sheeprl algos`."""
    observations: ClassVar[tuple[str, ...]] = ("vector",)
    actions: ClassVar[tuple[str, ...]] = ("discrete", "multi-discrete", "continuous")
    bounded_actions: ClassVar[bool] = False
    """Whether continuous actions must have bounds."""

    name: str = Field(description="the algorithm: a registered name, or package.module:Class")

    def data(self) -> OnPolicy | OffPolicy:
        """How the algorithm reads what was collected."""
        raise NotImplementedError(
            f"{type(self).__name__} must say how its data is read: derive from "
            f"OnPolicyArgs or OffPolicyArgs, or define data()"
        )


class OnPolicyArgs(AlgoArgs):
    """Arguments that every on-policy algorithm has."""

    rollout_steps: Count = Field(128, description="rows that every environment plays in a round")
    batch_size: Count = Field(64, description="transitions of a minibatch, over the whole trainer group")
    epochs: Count = Field(10, description="passes over each rollout")

    def data(self) -> OnPolicy:
        """Read whole rollouts."""
        return OnPolicy(self.rollout_steps, self.batch_size, self.epochs)


class OffPolicyArgs(AlgoArgs):
    """Arguments that every off-policy algorithm has."""

    learning_starts: Natural = Field(100, description="policy steps played at random before learning starts")
    replay_ratio: NonNegative = Field(1.0, description="gradient steps per policy step, held exactly")
    batch_size: Count = Field(256, description="transitions of a batch, over the whole trainer group")

    def data(self) -> OffPolicy:
        """Read uniform samples of transitions."""
        return OffPolicy(self.batch_size, self.replay_ratio, self.learning_starts)
