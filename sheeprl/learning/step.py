"""One gradient step: for every phase the loss, its gradient, the optimizer step and the target updates.

`GradientStep.take` has two uses. The learner calls it directly (eager mode) with an `OptimizerStepper`, and
`compile.tracing` traces the same function into a graph with a `RuleStepper`. All tensors that the step reads or changes
are arguments. A tensor from elsewhere would become a constant of the graph.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, Protocol

import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from sheeprl.algos.base import Loss, LossFunction, Phase, TargetUpdate, Tensors
from sheeprl.learning.flat_parameters import FlatParameters, Span
from sheeprl.models.ranks import Ranks, trainer_group
from sheeprl.utils.errors import AlgorithmError, naming_function


@dataclass
class Group:
    """Parameter group of an agent, and its optimizer.

    Args:
        vectors: numbers of the group's vectors in `FlatParameters.vectors`, in the optimizer's order.
        optimizer: optimizer of these vectors.
        learning_rates: initial learning rate of each of the optimizer's `param_groups`.
        max_grad_norm: maximum norm of the group's gradient; None disables clipping.
        adaptive_clip: maximum norm of each parameter's gradient, as a fraction of the parameter's norm, if not None.
    """

    vectors: list[int]
    optimizer: Optimizer
    learning_rates: list[float]
    max_grad_norm: float | None
    adaptive_clip: float | None = None

    def settings(self) -> list[tuple[dict[str, Any], float]]:
        """Return for each vector the optimizer's settings and the initial learning rate."""
        groups = zip(self.optimizer.param_groups, self.learning_rates, strict=True)
        return [(settings, rate) for settings, rate in groups for _ in settings["params"]]

    def load_state(self, state: dict[str, Any]) -> None:
        """Load the state of a saved optimizer, but not its settings: a resumed run may have changed them."""
        current = [dict(settings) for settings in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state)
        for settings, before in zip(self.optimizer.param_groups, current, strict=True):
            settings.update({name: value for name, value in before.items() if name not in ("params", "lr")})


SMALLEST_NORM = 1e-3  # of a parameter that counts for adaptive clipping: a parameter of 0 must be able to leave it


def leaf_names(batch: TensorDict) -> list[str]:
    """Return the names of a batch's tensors; those of nested ones are joined by dots."""
    keys = batch.keys(include_nested=True, leaves_only=True)
    return sorted(key if isinstance(key, str) else ".".join(key) for key in keys)


@dataclass
class Outcome:
    """Result of a gradient step.

    Args:
        norms: norm of the gradient before clipping, for each group of each phase, scalars.
        metrics: metrics of all phases by name, scalars.
        losses: losses that have values or priorities to write back.
        stop: boolean scalar, true if the step changed nothing because a rank stopped the round; None if the first
            loss returns no `Loss.stop`.
    """

    norms: list[Tensor] = field(default_factory=list)
    metrics: Tensors = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)
    stop: Tensor | None = None


class Stepper(Protocol):
    """Changes parameters and buffers in place.

    It must change nothing if a gradient isn't finite, nor after a loss whose `stop` is true.
    """

    def step(self, phase: Phase, loss: Loss, gradients: Sequence[Sequence[Tensor]], norms: Sequence[Tensor]) -> None:
        """Take the optimizer step of each of the phase's groups.

        Args:
            phase: phase of the gradients.
            loss: loss of the phase; its `stop` is that of the whole trainer group.
            gradients: for each group, the clipped gradient of each of its vectors.
            norms: for each group, the norm of the gradients before clipping, scalar.
        """
        ...

    def polyak_update(self, span: Span, tau: float) -> None:
        """Update a slice of a target vector: θ_target ← θ_target + τ (θ_online − θ_target)."""
        ...

    def set_buffer(self, name: str, value: Tensor) -> None:
        """Set a buffer of the agent."""
        ...


class BoundLoss(nn.Module):
    """Module whose forward pass is a loss. `functional_call` can then replace the agent's parameters.

    Args:
        agent: module with all networks.
        loss: loss function of the agent.
    """

    def __init__(self, agent: nn.Module, loss: LossFunction) -> None:
        """Register the agent as a submodule."""
        super().__init__()
        self.agent = agent
        self.loss = loss

    def forward(self, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute the loss with the agent's current parameters."""
        return self.loss(self.agent, batch, noise, carry)


class GradientStep:
    """Computes the phases of a gradient step, in order.

    Args:
        agent: module with all networks.
        flat: flat vectors of its parameters.
        groups: parameter groups by name.
        ranks: ranks over which gradients are averaged.
        autocast: function that returns the precision context of the losses.
        may_stop: True if losses may return `Loss.stop`.
    """

    def __init__(
        self,
        agent: nn.Module,
        flat: FlatParameters,
        groups: Mapping[str, Group],
        ranks: Ranks,
        autocast: Callable[[], Any],
        may_stop: bool = True,
    ) -> None:
        """Store the parts; nothing is computed."""
        self.may_stop = may_stop
        self.agent, self.flat, self.groups = agent, flat, groups
        self.ranks = ranks
        self.autocast = autocast
        self._bound_losses: dict[LossFunction, BoundLoss] = {}
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
        """Take a gradient step.

        Args:
            phases: phases of the step.
            vectors: flat vectors of the agent's parameters; the stepper changes them.
            buffers: buffers of the agent by name; the stepper changes them.
            batch: batch of the losses.
            noise: noise of each phase.
            scalars: `Phase.scalars` of each phase, as tensors.
            stepper: applies gradients, target updates and buffers.
        """
        outcome, carried = Outcome(), Tensors()
        for number, phase in enumerate(phases):
            carry = {**carried, **scalars[number]}
            loss, gradients = self.differentiate(phase, vectors, buffers, batch, noise[number], carry)
            if loss.stop is not None:
                self._check_stop(number)
                outcome.stop = loss.stop
            norms = [torch.linalg.vector_norm(torch.cat(part) if len(part) > 1 else part[0]) for part in gradients]
            clipped = [
                self.clip(name, part, norm, vectors)
                for name, part, norm in zip(phase.groups, gradients, norms, strict=True)
            ]
            stepper.step(phase, loss, clipped, norms)
            for update in phase.target_updates:
                for span in self._spans_of(update):
                    stepper.polyak_update(span, update.tau)
            for name, value in loss.buffers.items():
                stepper.set_buffer(name, self.ranks.sum(value) / self.ranks.world)
            carried.update(loss.carry)
            outcome.norms += norms
            outcome.metrics.update(loss.metrics)
            if loss.write or loss.priority is not None:
                # Cast to the stored dtypes: NumPy has no bfloat16, which mixed precision may return.
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
    ) -> tuple[Loss, list[list[Tensor]]]:
        """Compute the loss of a phase and its gradients.

        Returns:
            The loss, and for each vector of each of the phase's groups the gradient, averaged over the ranks.
            `Loss.stop` is true if it is true on any rank.
        """
        parts = [self.groups[name].vectors for name in phase.groups]
        numbers = list(dict.fromkeys(itertools.chain(*parts)))  # groups may share a vector
        with torch.enable_grad():
            parameters = self.flat.views([vector.detach() for vector in vectors])
            # Differentiate by parameter. By vector, autograd would add one zero-padded vector per parameter.
            trained = [[parameters[name].requires_grad_() for name in self.flat.names_in(number)] for number in numbers]
            tensors = {f"agent.{name}": values for name, values in {**parameters, **buffers}.items()}
            with self.autocast():
                loss = self._loss(phase, tensors, batch, noise, carry)
            by_parameter = iter(
                torch.autograd.grad(
                    loss.value, list(itertools.chain(*trained)), allow_unused=True, materialize_grads=True
                )
            )
        gradients = [torch.cat([next(by_parameter).flatten() for _ in part]) for part in trained]
        if loss.stop is None:
            gradients = self._mean(gradients)
        else:  # the stop travels with the gradients: another collective would cost more than one element
            *gradients, stop = self._mean([*gradients, loss.stop.detach().to(gradients[0].dtype).reshape(1)])
            loss = replace(loss, stop=stop.squeeze(0) > 0)
        by_number = dict(zip(numbers, gradients, strict=True))
        return loss, [[by_number[number] for number in part] for part in parts]

    def _mean(self, gradients: list[Tensor]) -> list[Tensor]:
        """Return the mean of each gradient over the ranks."""
        if self.ranks.world == 1:
            return gradients
        mean = self.ranks.sum(torch.cat(gradients)) / self.ranks.world
        return list(torch.split(mean, [len(gradient) for gradient in gradients]))

    def _check_stop(self, number: int) -> None:
        """Check that the loss of a phase may return `Loss.stop`.

        Args:
            number: number of the phase, from 0.

        Raises:
            ValueError: it may not.
        """
        if not self.may_stop:  # the steps not taken would stay due, and the next round would take them
            raise ValueError("an off-policy algorithm's loss returned Loss.stop; only OnPolicy rounds can be stopped")
        if number > 0:  # earlier phases have changed their parameters
            raise ValueError(f"the loss of phase {number + 1} returned Loss.stop; return it from the first phase")

    def _loss(self, phase: Phase, tensors: Tensors, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute the loss of a phase and check its type.

        Raises:
            AlgorithmError: the loss function failed, or its result isn't a Loss with a differentiable scalar.
        """
        name = f"{getattr(phase.loss, '__qualname__', phase.loss)}() of the phase {phase.optimizer!r}"

        def known() -> str:
            """Name the tensors that the loss gets."""
            parts = {"the batch": leaf_names(batch), "noise": sorted(noise), "carry": sorted(carry)}
            return ", ".join(f"{part} has {', '.join(names) or 'nothing'}" for part, names in parts.items())

        with naming_function(name, known), trainer_group(self.ranks):
            loss: Loss = functional_call(self._bound(phase.loss), tensors, (batch, noise, carry))
        if not isinstance(loss, Loss):
            raise AlgorithmError(f"{name} returned {type(loss).__name__}; return a sheeprl.algos.base.Loss")
        if loss.value.numel() != 1:
            shape = list(loss.value.shape)
            raise AlgorithmError(
                f"{name} returned a Loss.value of shape {shape}; return a scalar, such as "
                "(batch['sample_weight'] * values).sum()"
            )
        if not loss.value.requires_grad:
            raise AlgorithmError(
                f"{name} returned a Loss.value that doesn't depend on any parameter of the group; compute it from "
                "the agent's modules, without detach() or no_grad()"
            )
        return loss

    def _bound(self, loss: LossFunction) -> BoundLoss:
        """Return the module of a loss, the same one in every step."""
        if loss not in self._bound_losses:
            self._bound_losses[loss] = BoundLoss(self.agent, loss)
        return self._bound_losses[loss]

    def _spans_of(self, update: TargetUpdate) -> list[Span]:
        """Return the slices of a target update, computed once."""
        names = (update.online, update.target)
        if names not in self._spans:
            self._spans[names] = self.flat.spans(self.agent, update)
        return self._spans[names]

    def clip(self, name: str, gradients: Sequence[Tensor], norm: Tensor, vectors: Sequence[Tensor]) -> list[Tensor]:
        """Return the clipped gradients of a group: by its maximum norm, as `clip_grad_norm_` does, then adaptively.

        Args:
            name: name of the group.
            gradients: gradient of each of the group's vectors.
            norm: norm of the gradients.
            vectors: flat vectors of the agent's parameters.
        """
        group = self.groups[name]
        if group.max_grad_norm is not None:
            factor = (group.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
            gradients = [gradient * factor for gradient in gradients]
        if group.adaptive_clip is not None:
            sizes = [self.flat.sizes_in(number) for number in group.vectors]
            parts = zip(gradients, group.vectors, sizes, strict=True)
            gradients = [
                adaptively_clipped(gradient, vectors[number].detach(), size, group.adaptive_clip)
                for gradient, number, size in parts
            ]
        return list(gradients)


def adaptively_clipped(gradient: Tensor, vector: Tensor, sizes: Sequence[int], limit: float) -> Tensor:
    """Return a gradient of which each parameter's part is scaled to ‖g‖ ≤ limit · max(0.001, ‖θ‖).

    Args:
        gradient: gradient of a vector.
        vector: the vector of parameters.
        sizes: number of elements of each parameter in the vector.
        limit: largest norm of a gradient, as a fraction of the parameter's norm.
    """
    parts = torch.split(gradient, list(sizes))
    norms = torch.stack([torch.linalg.vector_norm(part) for part in parts])
    weights = torch.stack([torch.linalg.vector_norm(part) for part in torch.split(vector, list(sizes))])
    largest = limit * weights.clamp_min(SMALLEST_NORM)
    factors = (1.0 / (norms / largest).clamp_min(1.0)).unbind(0)
    return torch.cat([part * factor for part, factor in zip(parts, factors, strict=True)])


class OptimizerStepper:
    """Stepper of eager mode: calls torch's optimizers.

    Args:
        vectors: flat vectors of the agent's parameters.
        buffers: buffers of the agent by name.
        groups: parameter groups by name.
        raise_non_finite: raises an error for a phase whose gradient isn't finite; gets the phase and its metrics.
    """

    def __init__(
        self,
        vectors: Sequence[nn.Parameter],
        buffers: Tensors,
        groups: Mapping[str, Group],
        raise_non_finite: Callable[[Phase, Tensors], NoReturn],
    ) -> None:
        """Store the tensors and the groups."""
        self.vectors, self.buffers, self.groups = vectors, buffers, groups
        self.raise_non_finite = raise_non_finite
        self._is_stopped = False

    def step(self, phase: Phase, loss: Loss, gradients: Sequence[Sequence[Tensor]], norms: Sequence[Tensor]) -> None:
        """Take the optimizer step of each of the phase's groups. A norm that isn't finite raises instead."""
        if not all(map(torch.isfinite, norms)):
            self.raise_non_finite(phase, loss.metrics)
        self._is_stopped |= loss.stop is not None and bool(loss.stop)
        if self._is_stopped:
            return
        scale = phase.lr_scale if loss.lr_scale is None else phase.lr_scale * loss.lr_scale.item()
        for name, part in zip(phase.groups, gradients, strict=True):
            group = self.groups[name]
            for number, gradient in zip(group.vectors, part, strict=True):
                self.vectors[number].grad = gradient
            for settings, rate in zip(group.optimizer.param_groups, group.learning_rates, strict=True):
                settings["lr"] = rate * scale
            group.optimizer.step()

    @torch.no_grad()
    def polyak_update(self, span: Span, tau: float) -> None:
        """Update a slice of a target vector: θ_target ← θ_target + τ (θ_online − θ_target)."""
        if not self._is_stopped:
            self.vectors[span.target][span.target_slice].lerp_(self.vectors[span.online][span.online_slice], tau)

    @torch.no_grad()
    def set_buffer(self, name: str, value: Tensor) -> None:
        """Set a buffer of the agent."""
        if not self._is_stopped:
            self.buffers[name].copy_(value)
