"""Contract between an algorithm and the rest of SheepRL.

An algorithm defines its networks, their actions, its training data and its losses. It depends on neither the
environment, nor Ray, nor gradient reduction. `docs/new_algorithm.md` builds one step by step.

Data has the shape `[T, B, *]`: T rows in time, B environments. A row is dm_env's `TimeStep`, as in DreamerV3: the
observation, the reward and the flags received on arrival, and the action chosen there. An *end row* holds the final
observation of an episode and no action.

Players import this module, so it imports no library but torch. TensorDict is imported for type checks only.
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
    "PreparedRollout",
    "Spaces",
    "Step",
    "TargetUpdate",
    "Tensors",
]

ArgsT = TypeVar("ArgsT", bound=AlgoArgs)


@dataclass(frozen=True)
class PolicyInput:
    """Observation, reward and flags on arrival at one row, for the B environments of a player.

    Args:
        obs: `[B, *]` tensor, or nested dicts of such tensors for a Dict space.
        reward: `[B]`, received on arrival; 0 on a first row.
        is_first: `[B]` booleans, true where the observation came from a reset.
        progress: completed fraction of the run, 0 to 1, at the time of the policy's weights; for exploration schedules.
            Evaluations get 1, so one that explores does it as at the end of a run.
        first_env: number of the first of these B environments among all environments of the run.
        num_envs: number of all environments of the run; those of an evaluation are counted apart.
    """

    obs: Any
    reward: Tensor
    is_first: Tensor
    progress: float = 0.0
    first_env: int = 0
    num_envs: int = 1

    @property
    def place(self) -> Tensor:
        """Return the place of each environment among all of the run, `[B]` from 0 (first) to 1 (last)."""
        return places(self.first_env, len(self.reward), self.num_envs)


def places(first_env: int, count: int, num_envs: int) -> Tensor:
    """Return the place of `count` environments among all `num_envs` of the run, from 0 (first) to 1 (last)."""
    return torch.arange(first_env, first_env + count) / max(1, num_envs - 1)


@dataclass(frozen=True)
class PolicyOutput:
    """Action for every environment, and the tensors to store with it.

    Args:
        action: `[B]` int64 (Discrete), `[B, n]` int64 (MultiDiscrete), `[B, n]` int8 (MultiBinary) or `[B, n]` float32
            (Box). The environment gets Box actions clipped to the bounds; the buffer stores them unclipped.
        extras: `[B, *]` tensors to store with the row, such as `logprob`.
        rnn_state: `[B, *]` tensors that the next call gets, for recurrent policies. Don't change them in place.
    """

    action: Tensor
    extras: Tensors = field(default_factory=dict)
    rnn_state: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """Position of a gradient step within the run.

    Args:
        gradient_step: number of this gradient step, from 0.
        progress: completed fraction of `run.total_steps`, 0 to 1.
    """

    gradient_step: int
    progress: float


@dataclass(frozen=True)
class Loss:
    """Return value of a loss function.

    Args:
        value: scalar to minimize.
        metrics: detached scalars to log, by metric name, such as `Loss/value_loss`.
        carry: detached tensors for the later phases of the same gradient step; see `LossFunction`.
        buffers: detached tensors by buffer name of the agent. After the step, the buffer is set to their mean over the
            trainer group. For running statistics, such as a scale of returns.
        write: detached tensors by stored key, `[*index.shape, *]`, to write back to the sampled rows; those of
            sequences may have fewer rows, the last ones. Requires `OffPolicy.writes_back`.
        priority: detached `[N]`, new priority of each sample; a sequence's applies to its last row. Requires
            `OffPolicy.prioritized`; ignored where the buffer samples uniformly.
        lr_scale: scalar factor on the optimizer's learning rate in this step, beside `Phase.lr_scale`. It must be the
            same on all ranks, so compute it from buffers, not from the batch.
        stop: boolean or float scalar. If it is true on any rank, or its mean over the trainer group is positive, this
            gradient step changes nothing and the round takes no further one. The metrics of this step are logged.
            On-policy, and by the first phase of a step only.
    """

    value: Tensor
    metrics: Tensors = field(default_factory=dict)
    carry: Tensors = field(default_factory=dict)
    buffers: Tensors = field(default_factory=dict)
    write: Tensors = field(default_factory=dict)
    priority: Tensor | None = None
    lr_scale: Tensor | None = None
    stop: Tensor | None = None


@dataclass(frozen=True)
class PreparedRollout:
    """Training rows of a rollout, and the running statistics that it changes.

    Args:
        rows: `[T, B]` rows with a boolean `mask`; see `Algorithm.prepare_rollout`.
        buffers: detached tensors by buffer name of the agent. After the last gradient step of the round, the buffer is
            set to their mean over the trainer group, so losses use the statistics that the players used.
    """

    rows: TensorDict
    buffers: Tensors = field(default_factory=dict)


LossFunction = Callable[[Any, "TensorDict", Tensors, Tensors], Loss]
"""Signature `loss(agent, batch, noise, carry)`. A pure function: it changes none of its inputs.

- `agent`: module with all networks.
- `batch`: see `Algorithm.phases`.
- `noise`: results of `Phase.noise` and `Phase.shared_noise`; empty without them.
- `carry`: tensors that travel through the phases of one gradient step. A phase gets its own `Phase.scalars` and all
  tensors that earlier phases of this step returned in `Loss.carry`. The first phase of every gradient step starts
  with the scalars alone.
"""

NoiseFunction = Callable[["torch.Size", torch.Generator], Tensors]
"""Signature `noise(shape, generator)`: return random tensors `[N, *]` for a batch of shape `[N]`.

N counts the samples of the whole trainer group. Every rank gets its part, so results don't depend on their number.
"""

SharedNoiseFunction = Callable[[torch.Generator], Tensors]
"""Signature `shared_noise(generator)`: return random tensors that all samples of a batch share, equal on all ranks."""


@dataclass(frozen=True)
class TargetUpdate:
    """Polyak average after the optimizer's step: θ_target ← θ_target + τ (θ_online − θ_target).

    Args:
        online: name of the trained submodule of the agent.
        target: name of its target network.
        tau: step size τ; 1 copies the online network.
    """

    online: str
    target: str
    tau: float


@dataclass(frozen=True)
class Phase:
    """Part of a gradient step: one loss, minimized over parameter groups. Other parameters get no gradient.

    Args:
        optimizer: name of the parameter group, a key of `Algorithm.optimizers()`, or a tuple of names. All gradients of
            the phase are those before the groups' steps; each group clips its own. `Grads/<group>` logs their norms.
        loss: the pure loss function. It is compiled once, so it must be the same object in every step: a method or a
            function of a module.
        noise: function that draws the random numbers of each sample.
        shared_noise: function that draws random numbers that all samples share, under other names.
        scalars: numbers that change over the run, such as an annealed clip. The loss gets them as tensors in `carry`.
        lr_scale: factor on the optimizers' learning rate.
        target_updates: target networks to update after the step.
        compile: allow `trainer.compile` to compile gradient steps with this phase. False where the loss unrolls so many
            steps in time that compiling would take longer than it saves. On one CUDA device such steps are recorded as
            a CUDA graph.
    """

    optimizer: str | tuple[str, ...]
    loss: LossFunction
    noise: NoiseFunction | None = None
    shared_noise: SharedNoiseFunction | None = None
    scalars: Mapping[str, float] = field(default_factory=dict)
    lr_scale: float = 1.0
    target_updates: Sequence[TargetUpdate] = ()
    compile: bool = True

    @property
    def groups(self) -> tuple[str, ...]:
        """Return the names of the parameter groups."""
        return (self.optimizer,) if isinstance(self.optimizer, str) else self.optimizer


@dataclass(frozen=True)
class OptimizerSpec:
    """Parameter group and its optimizer.

    Args:
        modules: names of the agent's submodules whose parameters form the group.
        build: function that builds the optimizer from a list of parameters. The list holds flat vectors with the
            parameters of all modules, so the optimizer must be elementwise (Adam, AdamW, RMSprop, SGD).
        max_grad_norm: maximum global norm of the gradients; None disables clipping.
        adaptive_clip: maximum norm of each parameter's gradient, as a fraction of the parameter's norm; None disables
            it. Adaptive gradient clipping (AGC), Brock et al. 2021 (2102.06171), by tensor instead of by unit.
    """

    modules: tuple[str, ...]
    build: Callable[[list[nn.Parameter]], Optimizer]
    max_grad_norm: float | None = None
    adaptive_clip: float | None = None


class Algorithm(ABC, Generic[ArgsT]):
    """Base class of all algorithms. Derive as `class SAC(Algorithm[SACArgs])`.

    Args:
        args: arguments of the algorithm.
        spaces: observation and action space of the agent.
    """

    def __init__(self, args: ArgsT, spaces: Spaces) -> None:
        """Store arguments and spaces; networks are built in `build_agent`."""
        self.args = args
        self.spaces = spaces

    @classmethod
    def args_class(cls) -> type[AlgoArgs]:
        """Return the arguments class named in `Algorithm[...]` by this class or its nearest base class.

        Raises:
            TypeError: neither this class nor a base class names an arguments class.
        """
        for owner in cls.__mro__:
            for base in vars(owner).get("__orig_bases__", ()):
                for argument in get_args(base):
                    if isinstance(argument, type) and issubclass(argument, AlgoArgs):
                        return argument
        raise TypeError(f"{cls.__name__} names no arguments class; derive it from Algorithm[YourArgs]")

    @abstractmethod
    def build_agent(self) -> nn.Module:
        """Build a module with all networks. Players get its submodule `policy` only."""

    def build_policy(self) -> nn.Module:
        """Build the agent's submodule `policy`, for players. Override it if other networks are large."""
        return self.build_agent().get_submodule("policy")

    @abstractmethod
    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Return the parameter groups by name."""

    def data(self) -> OnPolicy | OffPolicy:
        """Return how training reads the collected data; by default `args.data()`."""
        return self.args.data()

    @abstractmethod
    def act(
        self, policy: Any, inputs: PolicyInput, rnn_state: Tensors, mode: Mode, generator: torch.Generator
    ) -> PolicyOutput:
        """Compute the actions of B environments. Called without gradients.

        Args:
            policy: the agent's submodule `policy`.
            inputs: observation, reward and flags of B environments.
            rnn_state: `PolicyOutput.rnn_state` of the previous call; empty on the first call of a player.
            mode: explore, greedy (no exploration noise) or random (uniform actions before `learning_starts`).
            generator: the only permitted source of random numbers.
        """

    def initial_priority(self, policy: Any, rows: Tensors) -> Tensor | None:
        """Return the priorities `[T, B]` with which a fragment enters the replay buffer, with prioritized sampling.

        None, the default, gives new rows the highest priority so far. Players call it without gradients once per
        fragment, before they send it. End rows may have any priority.

        Args:
            policy: the agent's submodule `policy`, which collected the fragment.
            rows: `[T + 1, B, *]` tensors by stored key, `obs` nested like its space; the last row is the bootstrap row.
        """
        return None

    def prepare_rollout(self, agent: Any, rollout: TensorDict) -> TensorDict | PreparedRollout:
        """Convert a rollout `[T + 1, B]` into training rows `[T, B]`. On-policy only.

        The last row of the rollout is the bootstrap row: the observation after the last action. Called once a round,
        without gradients, before minibatches are formed. The rows must have a boolean `mask`, true on rows with an
        action, so on all rows but end rows. Return a `PreparedRollout` to change buffers of the agent, too.
        """
        raise NotImplementedError(
            f"{type(self).__name__}.data() returns OnPolicy, which reads whole rollouts; define prepare_rollout()"
        )

    @abstractmethod
    def phases(self, step: Step) -> Sequence[Phase]:
        """Return the phases of one gradient step, in order. A later phase sees the parameters an earlier one updated.

        Losses get a batch with these keys:

        - every stored key `[N, *]` (transitions) or `[L, N, *]` (sequences); on-policy, the keys of `prepare_rollout`.
        - `mask`, `[L, N]` booleans, with sequences on-policy: false on end rows and on padding.
        - `next_obs`, with transitions.
        - `index`, off-policy: position of each row in the buffer.
        - `sample_weight`, `[N]`: `(sample_weight * values).sum()` is the mean of `[N]` values over the trainer group.
          With sequences on-policy it is `[L, N]`, and 0 where `mask` is false.
        - `importance`, `[N]`, with prioritized sampling: importance weights, at most 1 in the batch.
        """
