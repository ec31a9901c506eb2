"""One gradient step: every phase's loss, its gradient, the optimizer's step and the targets that follow.

The same function is carried out as it stands and traced into one graph. All that it reads and changes is given to it
(`Tensors` by name, in groups), so that nothing of a run can end up in a graph as a constant.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from sheeprl.algos.base import Loss, LossFunction, Phase, TargetUpdate, Tensors
from sheeprl.learning.flat_parameters import FlatParameters, Span


@dataclass
class Group:
    """The parameters of one optimizer.

    Args:
        vectors: their numbers among the agent's vectors, in the optimizer's order.
        optimizer: over these vectors.
        learning_rates: of the optimizer's own groups.
        max_grad_norm: clip of the gradient's norm; None doesn't clip.
    """

    vectors: list[int]
    optimizer: Optimizer
    learning_rates: list[float]
    max_grad_norm: float | None

    def settings(self) -> list[tuple[dict[str, Any], float]]:
        """What the optimizer's own groups say, and their learning rate, for each of the vectors."""
        groups = zip(self.optimizer.param_groups, self.learning_rates, strict=True)
        return [(settings, rate) for settings, rate in groups for _ in settings["params"]]

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what an optimizer had remembered, but not how it was set, which may have been changed since."""
        own = [dict(settings) for settings in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state)
        for settings, before in zip(self.optimizer.param_groups, own, strict=True):
            settings.update({name: value for name, value in before.items() if name not in ("params", "lr")})


@dataclass
class Outcome:
    """What a gradient step gives.

    Args:
        norms: of each phase's gradient, before clipping.
        metrics: of all phases.
        losses: of the phases that give something to write back.
    """

    norms: list[Tensor] = field(default_factory=list)
    metrics: Tensors = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)


class Ranks(Protocol):
    """How tensors of all ranks become one."""

    world: int

    def sum(self, value: Tensor) -> Tensor:
        """The sum over the ranks."""
        ...


class Stepper(Protocol):
    """Applies what a phase found. Where its gradient isn't finite, nothing may change."""

    def step(self, phase: Phase, loss: Loss, gradients: Sequence[Tensor], norm: Tensor) -> None:
        """Step the phase's group."""
        ...

    def polyak_update(self, span: Span, tau: float) -> None:
        """Move a part of a target vector towards what it follows."""
        ...

    def set_buffer(self, name: str, value: Tensor) -> None:
        """Put a value into the agent's buffer of that name."""
        ...


class BoundLoss(nn.Module):
    """A loss as a module's forward pass, so that it can be called with parameters other than the agent's own."""

    def __init__(self, agent: nn.Module, loss: LossFunction) -> None:
        super().__init__()
        self.agent = agent
        self.loss = loss

    def forward(self, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """The loss of the agent as it is called."""
        return self.loss(self.agent, batch, noise, carry)


class GradientStep:
    """The phases of a gradient step, in order.

    Args:
        agent: all networks.
        flat: their parameters.
        groups: the optimizers and what they step.
        ranks: among which gradients are averaged.
        autocast: makes a context of the precision that losses are computed in.
    """

    def __init__(
        self,
        agent: nn.Module,
        flat: FlatParameters,
        groups: Mapping[str, Group],
        ranks: Ranks,
        autocast: Callable[[], Any],
    ) -> None:
        self.agent, self.flat, self.groups = agent, flat, groups
        self.ranks = ranks
        self.autocast = autocast
        self._losses: dict[LossFunction, BoundLoss] = {}
        self._spans: dict[tuple[str, str], list[Span]] = {}

    def take(
        self,
        phases: Sequence[Phase],
        vectors: Sequence[Tensor],
        buffers: Tensors,
        batch: TensorDict,
        noise: Sequence[Tensors],
        scalars: Sequence[Tensors],
        stepper: Stepper,
    ) -> Outcome:
        """Take a step.

        Args:
            phases: what it consists of.
            vectors: of the agent's parameters; `stepper` changes these.
            buffers: of the agent, by name; `stepper` changes these.
            batch: for the losses.
            noise: of each phase.
            scalars: of each phase, as tensors.
            stepper: who applies what was found.
        """
        outcome, carried = Outcome(), Tensors()
        for number, phase in enumerate(phases):
            carry = {**carried, **scalars[number]}
            loss, gradients = self.differentiate(phase, vectors, buffers, batch, noise[number], carry)
            norm = torch.linalg.vector_norm(torch.cat(gradients) if len(gradients) > 1 else gradients[0])
            stepper.step(phase, loss, self.clipped(phase, gradients, norm), norm)
            for average in phase.averages:
                for span in self._spans_of(average):
                    stepper.polyak_update(span, average.tau)
            for name, value in loss.buffers.items():
                stepper.set_buffer(name, self.ranks.sum(value) / self.ranks.world)
            carried.update(loss.carry)
            outcome.norms.append(norm)
            outcome.metrics.update(loss.metrics)
            if loss.write or loss.priority is not None:
                # In the dtypes that are stored: NumPy doesn't know the bfloat16 of mixed precision.
                write = {name: value.to(batch[name].dtype) for name, value in loss.write.items()}
                outcome.losses.append(Loss(loss.value, write=write, priority=loss.priority))
        return outcome

    def differentiate(
        self,
        phase: Phase,
        vectors: Sequence[Tensor],
        buffers: Tensors,
        batch: TensorDict,
        noise: Tensors,
        carry: Tensors,
    ) -> tuple[Loss, list[Tensor]]:
        """A phase's loss, and the mean over the ranks of its gradients, one for each vector of its group."""
        own = self.groups[phase.optimizer].vectors
        with torch.enable_grad():
            parameters = self.flat.views([vector.detach() for vector in vectors])
            # By parameter, not by vector: that would add up as many vectors of zeros, each with one parameter in it.
            trained = [[parameters[name].requires_grad_() for name in self.flat.names_in(number)] for number in own]
            tensors = {f"agent.{name}": values for name, values in {**parameters, **buffers}.items()}
            with self.autocast():
                loss: Loss = functional_call(self._bound(phase.loss), tensors, (batch, noise, carry))
            found = iter(
                torch.autograd.grad(
                    loss.value, list(itertools.chain(*trained)), allow_unused=True, materialize_grads=True
                )
            )
        gradients = [torch.cat([next(found).flatten() for _ in part]) for part in trained]
        if self.ranks.world == 1:
            return loss, gradients
        mean = self.ranks.sum(torch.cat(gradients)) / self.ranks.world
        return loss, list(torch.split(mean, [len(gradient) for gradient in gradients]))

    def _bound(self, loss: LossFunction) -> BoundLoss:
        if loss not in self._losses:
            self._losses[loss] = BoundLoss(self.agent, loss)
        return self._losses[loss]

    def _spans_of(self, average: TargetUpdate) -> list[Span]:
        names = (average.online, average.target)
        if names not in self._spans:
            self._spans[names] = self.flat.spans(self.agent, average)
        return self._spans[names]

    def clipped(self, phase: Phase, gradients: Sequence[Tensor], norm: Tensor) -> list[Tensor]:
        """Gradients of a norm that is not above the group's limit."""
        most = self.groups[phase.optimizer].max_grad_norm
        if most is None:
            return list(gradients)
        factor = (most / (norm + 1e-6)).clamp(max=1.0)
        return [gradient * factor for gradient in gradients]


class OptimizerStepper:
    """Asks torch's optimizers, one operation after the other.

    Args:
        vectors: of the agent's parameters.
        buffers: of the agent.
        groups: the optimizers.
        refuse: raises, given a phase whose gradient is not finite and its metrics.
    """

    def __init__(
        self,
        vectors: Sequence[nn.Parameter],
        buffers: Tensors,
        groups: Mapping[str, Group],
        raise_non_finite: Callable[[Phase, Tensors], NoReturn],
    ) -> None:
        self.vectors, self.buffers, self.groups = vectors, buffers, groups
        self.raise_non_finite = raise_non_finite

    def step(self, phase: Phase, loss: Loss, gradients: Sequence[Tensor], norm: Tensor) -> None:
        """Step the phase's group."""
        if not torch.isfinite(norm):
            self.raise_non_finite(phase, loss.metrics)
        group = self.groups[phase.optimizer]
        for number, gradient in zip(group.vectors, gradients, strict=True):
            self.vectors[number].grad = gradient
        for settings, rate in zip(group.optimizer.param_groups, group.learning_rates, strict=True):
            settings["lr"] = rate * phase.lr_scale
        group.optimizer.step()

    @torch.no_grad()
    def polyak_update(self, span: Span, tau: float) -> None:
        """Move a part of a target vector towards what it follows."""
        self.vectors[span.target][span.target_slice].lerp_(self.vectors[span.online][span.online_slice], tau)

    @torch.no_grad()
    def set_buffer(self, name: str, value: Tensor) -> None:
        """Put a value into the agent's buffer of that name."""
        self.buffers[name].copy_(value)
