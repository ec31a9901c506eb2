"""Outputs of a Q-network per action: a value, or a distribution of returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sheeprl.algos.dqn.loss import categorical_divergence, huber, project, q_target, quantile_huber

if TYPE_CHECKING:
    from sheeprl.algos.dqn.args import DQNArgs


class Head(ABC):
    """Meaning of the network's outputs of one action, and their loss."""

    fractions: int = 0
    """Number of quantile fractions, K, which the network gets as inputs; 0 for none."""
    cosines: int = 0
    """Number of cosines that represent a fraction; 0 without fractions."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of outputs per action, K; with fractions, 1 output for each."""

    @abstractmethod
    def values(self, output: Tensor) -> Tensor:
        """Return the values Q, the means of the returns: `[*, K]` to `[*]`."""

    @abstractmethod
    def errors(
        self, output: Tensor, next_output: Tensor, reward: Tensor, discount: Tensor, fraction: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the loss and the priority of each sample, `[N]` each; the priority is detached.

        Args:
            output: `[N, K]` outputs of the trained network for the taken action.
            next_output: `[N, K]` outputs of the target network for the next observation and the chosen action.
            reward: `[N]`; with n-step returns the discounted sum of n rewards.
            discount: `[N]`, γ (1 − terminated); see `models.critics.discount`.
            fraction: `[N, K]` quantile fractions of `output`, if the network got any.
        """


class ValueHead(Head):
    """Expected return Q, trained with the Huber loss of the temporal-difference error."""

    size = 1

    def values(self, output: Tensor) -> Tensor:
        """Return the only output of each action."""
        return output.squeeze(-1)

    def errors(
        self, output: Tensor, next_output: Tensor, reward: Tensor, discount: Tensor, fraction: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the Huber loss of y − Q, and the priority |y − Q|."""
        error = q_target(reward, discount, self.values(next_output)) - self.values(output)
        return huber(error), error.detach().abs()


@dataclass(frozen=True)
class CategoricalHead(Head):
    """Distribution of returns on fixed atoms (C51); the outputs are logits.

    Args:
        atoms: number of atoms.
        v_min: lowest atom.
        v_max: highest atom.
    """

    atoms: int
    v_min: float
    v_max: float

    @property
    def size(self) -> int:
        """One logit per atom."""
        return self.atoms

    def support(self, output: Tensor) -> Tensor:
        """Return the atoms, `[atoms]`, on the device of the outputs."""
        return torch.linspace(self.v_min, self.v_max, self.atoms, device=output.device)

    def values(self, output: Tensor) -> Tensor:
        """Return the means Σ_i p_i z_i."""
        return (output.softmax(-1) * self.support(output)).sum(-1)

    def errors(
        self, output: Tensor, next_output: Tensor, reward: Tensor, discount: Tensor, fraction: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the KL divergence from the projected target; it is the priority, too, as in Rainbow."""
        target = project(next_output.softmax(-1), reward, discount, self.support(output))
        loss = categorical_divergence(output.log_softmax(-1), target)
        return loss, loss.detach().clamp_min(0.0)  # rounding gives tiny negative numbers


@dataclass(frozen=True)
class QuantileHead(Head):
    """Quantiles of the distribution of returns (QR-DQN).

    Args:
        quantiles: number of quantiles.
    """

    quantiles: int

    @property
    def size(self) -> int:
        """One output per quantile."""
        return self.quantiles

    def values(self, output: Tensor) -> Tensor:
        """Return the means of the quantiles."""
        return output.mean(-1)

    def errors(
        self, output: Tensor, next_output: Tensor, reward: Tensor, discount: Tensor, fraction: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the quantile Huber loss, and the difference of the means as the priority."""
        target = q_target(reward[:, None], discount[:, None], next_output)
        difference = self.values(target) - self.values(output.detach())
        return quantile_huber(output, target, fraction), difference.abs()


@dataclass(frozen=True)
class ImplicitQuantileHead(QuantileHead):
    """Quantiles at given fractions (IQN, Dabney et al. 2018, 1806.06923), which the network gets as inputs.

    Args:
        quantiles: number of fractions, K.
        cosines: number of cosines that represent a fraction.
    """

    cosines: int

    @property
    def size(self) -> int:
        """One output per fraction."""
        return 1

    @property
    def fractions(self) -> int:  # type: ignore[override]
        """Number of fractions, K."""
        return self.quantiles


def head_of(args: DQNArgs) -> Head:
    """Return the head that the arguments name."""
    if args.head == "c51":
        return CategoricalHead(args.atoms, args.v_min, args.v_max)
    if args.head == "iqn":
        return ImplicitQuantileHead(args.quantiles, args.cosines)
    return QuantileHead(args.quantiles) if args.head == "qr" else ValueHead()
