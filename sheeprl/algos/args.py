"""Base classes of an algorithm's arguments, and the two ways to read collected data.

This module doesn't import torch, so help and validation respond at once.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from sheeprl.utils.settings import (
    DISCOUNTS,
    LEARNING_RATES,
    STRUCTURAL,
    Count,
    Fractional,
    Natural,
    NonNegative,
    Positive,
    Section,
    needs,
    searched,
)

if TYPE_CHECKING:
    from sheeprl.buffer.priorities import Prioritized
    from sheeprl.buffer.sampler import Sampler
    from sheeprl.envs.transforms import Spaces


Keys = Annotated[tuple[str, ...] | None, Field(strict=False)]


@dataclass(frozen=True)
class OnPolicy:
    """Train `epochs` times on each round's rollout, in shuffled minibatches, and then discard it.

    Args:
        rollout_steps: rows per environment in each rollout, T.
        batch_size: transitions per minibatch of the whole trainer group; None for the whole rollout.
        epochs: passes over each rollout.
        standardize: keys of the prepared rollout that get zero mean and unit deviation over each minibatch of the
            whole trainer group.
        sequence: rows L of a sequence, for recurrent policies. Minibatches then hold whole sequences, with
            `batch_size` / L sequences each. None for single rows.
        tolerates_staleness: the losses correct for players with older weights, so in decoupled mode collection overlaps
            training by default.
    """

    rollout_steps: int
    batch_size: int | None
    epochs: int
    standardize: tuple[str, ...] = ()
    sequence: int | None = None
    tolerates_staleness: bool = False

    is_off_policy: ClassVar[bool] = False
    """One call takes all gradient steps of a rollout; none is left for a later round."""
    learning_starts: ClassVar[int] = 0
    prioritized: ClassVar[None] = None
    feeds_back: ClassVar[bool] = False

    @property
    def sampler(self) -> Sampler:
        """Return the sampler of whole rollouts."""
        from sheeprl.buffer.samplers import Rollout  # imports NumPy, which would delay the help

        return Rollout()

    @property
    def fragment_rows(self) -> int:
        """Return the rows per fragment: each player sends its rollout as one fragment."""
        return self.rollout_steps

    def minibatches(self, rows: int) -> int:
        """Return the minibatches per epoch over a rollout of `rows` = T × B rows.

        These are ⌈rows / batch_size⌉; with sequences of L rows, ⌈B ⌈T / L⌉ / (batch_size / L)⌉. A minibatch holds at
        least one sequence.
        """
        if not self.batch_size:
            return 1
        return math.ceil(self.pieces(rows) / max(1, self.batch_size // (self.sequence or 1)))

    def pieces(self, rows: int) -> int:
        """Return the pieces of a rollout of `rows` = T × B rows that minibatches hold: rows, or B ⌈T / L⌉ sequences."""
        return rows // self.rollout_steps * math.ceil(self.rollout_steps / self.sequence) if self.sequence else rows

    def due_gradient_steps(self, policy_steps: int, gradient_steps: int, rows: int) -> int:
        """Return the gradient steps that are due after a round of `rows` rows: epochs × minibatches."""
        return self.epochs * self.minibatches(rows)


@dataclass(frozen=True)
class OffPolicy:
    """Train on samples of all stored rows, with `replay_ratio` gradient steps per policy step.

    Args:
        batch_size: transitions (or sequences) per batch of the whole trainer group.
        replay_ratio: gradient steps per policy step, exact: 0.1 means the decimal fraction 1/10, not the nearest float.
        learning_starts: policy steps with random actions before training starts.
        pretrain_steps: gradient steps when training starts, besides those of the ratio.
        sampler: sampler of the replay buffer; None for single transitions.
        fragment_rows: default of `players.fragment_rows`, the rows of a fragment.
        writes_back: losses return values to write back into the sampled rows (`Loss.write`).
        prioritized: settings of prioritized sampling by `Loss.priority`; None samples uniformly.
    """

    is_off_policy: ClassVar[bool] = True
    """Gradient steps that are still due at the end of a round are taken in a later one."""
    tolerates_staleness: ClassVar[bool] = True

    batch_size: int
    replay_ratio: float
    learning_starts: int = 0
    pretrain_steps: int = 0
    sampler: Sampler | None = None
    fragment_rows: int = 16
    writes_back: bool = False
    prioritized: Prioritized | None = None

    @property
    def feeds_back(self) -> bool:
        """Return True if losses write to the replay buffer: stored values or priorities."""
        return self.writes_back or self.prioritized is not None

    def total_gradient_steps(self, policy_steps: int) -> int:
        """Return pretrain_steps + ⌊replay_ratio × (policy_steps − learning_starts)⌋, in exact arithmetic.

        Until `learning_starts`, it is 0.
        """
        steps = policy_steps - self.learning_starts
        return self.pretrain_steps + math.floor(Fraction(str(self.replay_ratio)) * steps) if steps > 0 else 0

    def due_gradient_steps(self, policy_steps: int, gradient_steps: int, rows: int) -> int:
        """Return the gradient steps that are due after `policy_steps` policy steps and `gradient_steps` done."""
        return max(0, self.total_gradient_steps(policy_steps) - gradient_steps)


class AlgoArgs(Section):
    """Arguments of one algorithm, and its properties that are needed without importing torch."""

    algorithm: ClassVar[str] = ""
    """Path of the Algorithm class, `package.module:Class`."""
    summary: ClassVar[str] = ""
    """Description of the algorithm for `sheeprl algos`, in one line."""
    observations: ClassVar[tuple[str, ...]] = ("vector",)
    """Supported kinds of observations: `vector`, `pixels`."""
    actions: ClassVar[tuple[str, ...]] = ("discrete", "multi-discrete", "multi-binary", "continuous")
    """Supported kinds of actions."""
    bounded_actions: ClassVar[bool] = False
    """Continuous actions must have finite bounds."""
    help_first: ClassVar[tuple[str, ...]] = ()
    """Arguments that `sheeprl NAME -h` shows first, by importance."""

    name: str = Field(description="algorithm: a registered name, or package.module:Class")
    init_from: str | None = Field(
        None,
        description="begin with the networks of this run (folder, @last, beginning of its name), checkpoint or URL at "
        "checkpoint.storage; those that agree in name and shape are loaded",
    )

    @property
    def widest_layer(self) -> int | None:
        """Width of the widest hidden layer, by the argument `hidden_sizes`; None without one."""
        return max(getattr(self, "hidden_sizes", ()), default=None)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the policy's state that players store in each row of the replay buffer, to check the memory."""
        return 0

    def space_mistakes(self, spaces: Spaces) -> Iterator[str]:
        """Yield a line for each argument that doesn't fit the spaces of the environment; none by default.

        Each line names the setting and its value first, such as `algo.cnn_keys=[rgb]: …`, then what would work.

        Args:
            spaces: observation and action space of the agent.
        """
        yield from ()

    def space_warnings(self, spaces: Spaces) -> Iterator[str]:
        """Yield a line for each part of the spaces that the algorithm doesn't fully use; none by default.

        The run begins nevertheless, and shows the lines. Each line names the setting first, such as `algo.hidden=8: …`
        or `env.id: …`, then what would work.

        Args:
            spaces: observation and action space of the agent.
        """
        yield from ()

    def data(self) -> OnPolicy | OffPolicy:
        """Return how training reads the collected data.

        Raises:
            NotImplementedError: the class neither derives from OnPolicyArgs or OffPolicyArgs nor defines `data`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no data(); derive it from OnPolicyArgs or OffPolicyArgs, or define data()"
        )


class OnPolicyArgs(AlgoArgs):
    """Arguments of every on-policy algorithm."""

    rollout_steps: Count = Field(
        128, description="rows per environment in each rollout", json_schema_extra=searched(32, 64, 128, 256, 512)
    )
    batch_size: Count = Field(
        64,
        description="transitions per minibatch of the whole trainer group",
        json_schema_extra=searched(32, 64, 128, 256, 512),
    )
    epochs: Count = Field(10, description="passes over each rollout", json_schema_extra=searched(1, 3, 5, 10, 20))

    def data(self) -> OnPolicy:
        """Return settings to read whole rollouts."""
        return OnPolicy(self.rollout_steps, self.batch_size, self.epochs)


class OffPolicyArgs(AlgoArgs):
    """Arguments of every off-policy algorithm."""

    learning_starts: Natural = Field(100, description="policy steps with random actions before training starts")
    pretrain_steps: Natural = Field(0, description="gradient steps when training starts, besides those of replay_ratio")
    replay_ratio: NonNegative = Field(1.0, description="gradient steps per policy step, exact")
    batch_size: Count = Field(
        256,
        description="transitions per batch of the whole trainer group",
        json_schema_extra=searched(64, 128, 256, 512),
    )

    def data(self) -> OffPolicy:
        """Return settings to read uniform samples of transitions."""
        return OffPolicy(self.batch_size, self.replay_ratio, self.learning_starts, self.pretrain_steps)


class EncoderArgs(AlgoArgs):
    """Arguments of every algorithm that reads pictures and vectors with `models.encoder.Encoder`.

    Derive from it before the other base: `class MyArgs(EncoderArgs, OnPolicyArgs)`.
    """

    observations: ClassVar[tuple[str, ...]] = ("vector", "pixels")

    mlp_keys: Keys = Field(
        None,
        description="keys of the vectors in the observation; null for all of them",
        json_schema_extra=STRUCTURAL,
    )
    cnn_keys: Keys = Field(
        None,
        description="keys of the pictures in the observation; null for all of them",
        json_schema_extra=STRUCTURAL,
    )

    def space_mistakes(self, spaces: Spaces) -> Iterator[str]:
        """Yield a line for each key that isn't in the observation or is of the other kind, and if no key is left."""
        from sheeprl.envs.transforms import ACTION_MASK, input_keys, input_spaces, is_picture  # imports NumPy

        yield from super().space_mistakes(spaces)
        parts = input_spaces(spaces.observation)
        pairs = (("mlp_keys", "cnn_keys", self.mlp_keys), ("cnn_keys", "mlp_keys", self.cnn_keys))
        for setting, other, keys in pairs:
            named = f"algo.{setting}=[{', '.join(keys or ())}]"
            usable = [key for key, part in parts.items() if is_picture(part) == (setting == "cnn_keys")]
            for key in keys or ():
                part = parts.get(key)
                if key.rpartition("/")[2] == ACTION_MASK:
                    yield f"{named}: {key} permits actions and is never an input; leave it out"
                elif part is None:
                    yield f"{named}: the observation has no key {key}{_nearest(key, usable, setting)}"
                elif is_picture(part) != (setting == "cnn_keys"):
                    kind = "a picture" if is_picture(part) else "no picture"
                    yield f"{named}: {key} of shape {part.shape} is {kind}; move it to algo.{other}"
        if not any(input_keys(spaces.observation, self.mlp_keys, self.cnn_keys)):
            shown = ", ".join(f"algo.{setting}={list(keys)}" for setting, _, keys in pairs if keys is not None)
            yield f"{shown or 'env.id'}: no key of the observation is left as an input; use some of {', '.join(parts)}"


class OneOptimizerArgs(EncoderArgs):
    """Arguments of every algorithm that trains all of its networks, one encoder included, with one optimizer."""

    learning_rate: Positive = Field(
        3e-4, description="learning rate of the optimizer", json_schema_extra=LEARNING_RATES
    )
    final_learning_rate: NonNegative | None = Field(
        None, description="learning rate at the end of the run, reached linearly; null keeps it constant"
    )
    cnn: Literal["auto", "nature", "small"] = Field(
        "auto",
        description="CNN for pictures; auto chooses it by their size",
        json_schema_extra=STRUCTURAL | needs("pictures"),
    )
    cnn_features: Count = Field(
        512, description="features of each picture", json_schema_extra=STRUCTURAL | needs("pictures")
    )


def _nearest(key: str, usable: Collection[str], setting: str) -> str:
    """Return the advice for an unknown key: the most similar one of the usable keys, all of these, or to use none."""
    if not usable:
        return f" and no {'picture' if setting == 'cnn_keys' else 'vector'}; leave algo.{setting} out"
    near = difflib.get_close_matches(key, usable, 1)
    return f"; did you mean {near[0]}?" if near else f"; use some of {', '.join(usable)}"


class TDArgs(OffPolicyArgs):
    """Arguments of every off-policy algorithm that learns values by temporal differences."""

    gamma: Fractional = Field(0.99, description="discount factor", json_schema_extra=DISCOUNTS)
    n_step: Count = Field(1, description="steps of reward before the value of the next observation")
    prioritized: bool = Field(False, description="sample by TD error, Schaul et al. 2016 (1511.05952)")

    def data(self) -> OffPolicy:
        """Return settings to read transitions of `n_step` steps, uniformly or by priority."""
        from sheeprl.buffer.priorities import Prioritized  # imports NumPy, which would delay the help
        from sheeprl.buffer.samplers import NStep

        sampler = NStep(self.n_step, self.gamma) if self.n_step > 1 else None
        return replace(super().data(), sampler=sampler, prioritized=Prioritized() if self.prioritized else None)
