"""The contract between an algorithm and everything else.

An algorithm says what its networks are, how they act, what they are trained on and by which losses. It knows nothing
of the environment, of Ray, or of how its gradients are reduced and applied. Players import this module, so it imports
torch only; TensorDict is a name for the type checker.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sheeprl.algos.args import AlgoArgs, OffPolicy, OnPolicy
from sheeprl.envs.transforms import Spaces

if TYPE_CHECKING:
    from tensordict import TensorDict

Mode = Literal["explore", "greedy", "random"]
Tensors = dict[str, Tensor]
__all__ = [
    "Algorithm",
    "Loss",
    "Mode",
    "OptimizerSpec",
    "Phase",
    "PolicyInput",
    "PolicyOutput",
    "Spaces",
    "Step",
    "TargetUpdate",
    "Tensors",
]

ArgsT = TypeVar("ArgsT", bound=AlgoArgs)


@dataclass(frozen=True)
class PolicyInput:
    """What is found on arriving, for all environments of a player.

    Args:
        obs: `[B, *]`, nested dicts of such for a Dict space.
        reward: `[B]`, received on arriving here; 0 on a first row.
        is_first: `[B]`, whether the observation came from a reset.
        progress: part of the run that had been played when the policy's weights were made, from 0 to 1, for schedules
            of exploration.
    """

    obs: Any
    reward: Tensor
    is_first: Tensor
    progress: float = 0.0


@dataclass(frozen=True)
class PolicyOutput:
    """An algorithm's answer to a row.

    Args:
        action: `[B]` int64 (Discrete), `[B, n]` int64 (MultiDiscrete) or `[B, n]` float32 (Box). What lies outside a
            bounded Box is clipped on its way to the environment, and stored as it is.
        extras: `[B, *]` tensors to keep with the row, such as `logprob`.
        rnn_state: `[B, *]` tensors that the next call gets, for recurrent policies; nothing may be written in place.
    """

    action: Tensor
    extras: Tensors = field(default_factory=dict)
    rnn_state: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """Where training is.

    Args:
        gradient_step: number of this gradient step, from 0.
        progress: part of `run.total_steps` that has been played, from 0 to 1.
    """

    gradient_step: int
    progress: float


@dataclass(frozen=True)
class Loss:
    """What a loss function returns.

    Args:
        value: the scalar to minimize.
        metrics: detached scalars to log, by the key that dashboards show, such as `Loss/value_loss`.
        carry: detached tensors that later phases of the same gradient step get.
        buffers: detached tensors, by name of the agent's buffer that takes the group's mean of them after the step:
            running statistics, such as a scale of returns.
        write: detached tensors shaped like the batch's `index`, to write back to the sampled rows, by stored key.
        priority: detached `[N]` tensor of new priorities of the samples, a sequence's being that of its last row; of
            no effect while the buffer draws uniformly. For this as for `write`, `OffPolicy.writes_back` must be set.
    """

    value: Tensor
    metrics: Tensors = field(default_factory=dict)
    carry: Tensors = field(default_factory=dict)
    buffers: Tensors = field(default_factory=dict)
    write: Tensors = field(default_factory=dict)
    priority: Tensor | None = None


LossFunction = Callable[[Any, "TensorDict", Tensors, Tensors], Loss]
"""loss(agent, batch, noise, carry). Pure: the same inputs give the same loss, nothing is changed."""

NoiseFunction = Callable[["torch.Size", torch.Generator], Tensors]
"""noise(shape of the group's batch, generator): tensors `[N, *]`, N the batch's sample axis; ranks get their part."""


@dataclass(frozen=True)
class TargetUpdate:
    """After the optimizer's step, move `target` towards `online` by `tau` (Polyak averaging)."""

    online: str
    target: str
    tau: float


@dataclass(frozen=True)
class Phase:
    """A part of a gradient step: one loss, minimized over one parameter group.

    Args:
        optimizer: name of the parameter group, a key of `Algorithm.optimizers()`.
        loss: the pure loss function. Keep it the same object from step to step (a method, a module's function): it is
            compiled once.
        noise: draws what the loss needs at random.
        scalars: numbers that change over the run (a clip that is annealed); the loss finds them as tensors in `carry`.
        lr_scale: factor on the optimizer's learning rate.
        averages: target networks that follow after the step.
    """

    optimizer: str
    loss: LossFunction
    noise: NoiseFunction | None = None
    scalars: Mapping[str, float] = field(default_factory=dict)
    lr_scale: float = 1.0
    averages: Sequence[TargetUpdate] = ()


@dataclass(frozen=True)
class OptimizerSpec:
    """A parameter group and its optimizer.

    Args:
        modules: names of the agent's submodules whose parameters are in the group.
        build: makes the optimizer from a list of parameters: of long vectors in which those of the modules lie, so it
            must treat each number by itself.
        max_grad_norm: clip of the gradients' global norm; None doesn't clip.
    """

    modules: tuple[str, ...]
    build: Callable[[list[nn.Parameter]], Optimizer]
    max_grad_norm: float | None = None


class Algorithm(ABC, Generic[ArgsT]):
    """What is special about an algorithm. Derive as `class SAC(Algorithm[SACArgs])`.

    Args:
        args: its arguments.
        spaces: what its agent sees and does.
    """

    def __init__(self, args: ArgsT, spaces: Spaces) -> None:
        self.args = args
        self.spaces = spaces

    @classmethod
    def args_class(cls) -> type[AlgoArgs]:
        """Return the class of its arguments: the one named in `Algorithm[...]`, by it or by the nearest base class.

        Raises:
            TypeError: no class among its bases names its arguments.
        """
        for owner in cls.__mro__:
            for base in vars(owner).get("__orig_bases__", ()):
                for argument in get_args(base):
                    if isinstance(argument, type) and issubclass(argument, AlgoArgs):
                        return argument
        raise TypeError(f"{cls.__name__} must derive from Algorithm[ItsArgs]")

    @abstractmethod
    def build_agent(self) -> nn.Module:
        """All networks. Its submodule `policy` is the part that players get; act needs nothing else."""

    @abstractmethod
    def optimizers(self) -> dict[str, OptimizerSpec]:
        """The parameter groups by name."""

    def data(self) -> OnPolicy | OffPolicy:
        """How the algorithm reads what was collected; what its arguments say."""
        return self.args.data()

    @abstractmethod
    def act(
        self, policy: Any, row: PolicyInput, state: Tensors, mode: Mode, generator: torch.Generator
    ) -> PolicyOutput:
        """Decide for `[B]` environments, without gradients.

        Args:
            policy: the agent's `policy`.
            row: what was found on arriving.
            state: what the last call returned as `rnn_state`; empty on the first call of a player.
            mode: explore, greedy (no exploration noise) or random (warm-up: uniform over the action space).
            generator: the only source of randomness.
        """

    def prepare_rollout(self, agent: Any, rollout: TensorDict) -> TensorDict:
        """On-policy: from a rollout `[T + 1, B]` of arrival rows, whose last row is the tail, to `[T, B]` rows.

        Called once a round, without gradients, before minibatches are made. The result must have a boolean `mask`:
        the rows that carry a decision.
        """
        raise NotImplementedError(f"{type(self).__name__} reads whole rollouts and must define prepare_rollout()")

    @abstractmethod
    def phases(self, step: Step) -> Sequence[Phase]:
        """The phases of this gradient step, in order. A later one sees the parameters that an earlier one stepped.

        The batch given to losses has every stored key; with transitions also `next_obs`; with samples `index`; and
        `sample_weight`, `[N]`: sum it with per-sample values to get their mean over the whole trainer group. Where
        samples are drawn by priority there is also `importance`, `[N]`, of which the largest in the batch is 1.
        """
