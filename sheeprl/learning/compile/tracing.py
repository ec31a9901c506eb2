"""A gradient step as one graph: phases, gradients, clipping, optimizer and averages as one list of tensor operations.

For the CPU, Inductor makes a shared library of it (`libraries`); for CUDA, kernels that are started together
(`recorded`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from sheeprl.algos.base import Loss, Phase, Tensors
from sheeprl.learning.compile.allreduce import Library, has_sums, opened
from sheeprl.learning.compile.cpu import open_library
from sheeprl.learning.compile.cuda_graph import Recorded, open_kernels
from sheeprl.learning.flat_parameters import Span
from sheeprl.learning.optimizers import rule_of
from sheeprl.learning.step import GradientStep, Group, Outcome
from sheeprl.utils.tensors import Tree, flattened, moved, unflattened

Assemble = Callable[[Tree], TensorDict]
"""From the tensors that a step is given, to the batch that losses see."""


class RuleStepper:
    """Applies the optimizers' formulas to the tensors of a graph that is being traced.

    From the first gradient on that isn't finite, everything is put back as it was; in all later steps, too.

    Args:
        is_healthy: whether all gradients have been finite; changes with the first that isn't.
        vectors: of the agent's parameters.
        buffers: of the agent.
        states: of the optimizers, by group, for each of its vectors.
        groups: the optimizers.
        factors: of each phase, for each vector of its group, see `learning.rules`.
    """

    def __init__(
        self,
        all_finite: Tensor,
        vectors: Sequence[Tensor],
        buffers: Tensors,
        states: Mapping[str, Sequence[Tensors]],
        groups: Mapping[str, Group],
        factors: Sequence[Sequence[Sequence[Tensor]]],
    ) -> None:
        self.all_finite = all_finite
        self.vectors, self.buffers, self.states, self.groups = vectors, buffers, states, groups
        self.factors = iter(factors)

    def step(self, phase: Phase, loss: Loss, gradients: Sequence[Tensor], norm: Tensor) -> None:
        """Step the phase's group."""
        self.all_finite.logical_and_(torch.isfinite(norm))
        group, states, factors = self.groups[phase.optimizer], self.states[phase.optimizer], next(self.factors)
        rule, settings = rule_of(group.optimizer), [settings for settings, _ in group.settings()]
        for place, (number, gradient) in enumerate(zip(group.vectors, gradients, strict=True)):
            state = states[place]
            vector, new = rule.step(self.vectors[number], gradient, state, settings[place], factors[place])
            self._put(self.vectors[number], vector)
            for name, value in new.items():
                self._put(state[name], value)

    def polyak_update(self, span: Span, tau: float) -> None:
        """Move a part of a target vector towards what it follows."""
        target, online = self.vectors[span.target], self.vectors[span.online]
        old = target[span.target_slice]
        self._put(old, old + tau * (online[span.online_slice] - old))

    def set_buffer(self, name: str, value: Tensor) -> None:
        """Put a value into the agent's buffer of that name."""
        self._put(self.buffers[name], value)

    def _put(self, old: Tensor, new: Tensor) -> None:
        old.copy_(torch.where(self.all_finite, new, old))


class CompiledStep:
    """A gradient step as a library that was compiled for inputs of one shape.

    Args:
        step: what it consists of.
        phases: of that step.
        assemble: makes the batch.
        given: what each call gives, here on the device, later anywhere: `batch`, `noise` of each phase, and `numbers`,
            of each phase its scalars and then the optimizer's factors for each of its vectors.
        is_healthy: scalar; whether all gradients have been finite.
        folder: where libraries are kept.
    """

    def __init__(
        self,
        step: GradientStep,
        phases: Sequence[Phase],
        assemble: Assemble,
        given: Tree,
        all_finite: Tensor,
        folder: Path,
    ) -> None:
        self._step, self._phases, self._assemble = step, phases, assemble
        self._groups = {phase.optimizer: step.groups[phase.optimizer] for phase in phases}
        self._is_healthy, self._folder = all_finite, folder
        self.metrics: list[str] = []
        self.is_new = False
        self._writes: list[list[str]] = []
        # Nothing of `given` may be kept: it lies in the object store, which would never get the memory back.
        graph = self._trace({**self._state(), **given})
        self._library = opened(graph, self._open)
        # Sums over the ranks are not recorded: they wait for each other.
        self._is_recorded = all_finite.device.type == "cuda" and not has_sums(graph)
        self.rebind()

    def _open(self, graph: GraphModule, examples: list[Tensor]) -> Library:
        """What carries out a part of the graph."""
        open_part = open_library if self._is_healthy.device.type == "cpu" else open_kernels
        library, is_new = open_part(graph, examples, self._folder)
        self.is_new |= is_new
        return library

    def rebind(self) -> None:
        """Use the optimizers' state as it is now."""
        changed, library, device = flattened(self._state()), self._library, self._is_healthy.device
        self._run: Library = (
            Recorded(library, changed) if self._is_recorded else lambda given: library(changed + moved(given, device))
        )

    def _state(self) -> dict[str, Any]:
        """What the step changes, in place."""
        flat = self._step.flat
        states = {
            name: [
                {key: group.optimizer.state[flat.vectors[number]][key] for key in rule_of(group.optimizer).remembers}
                for number in group.vectors
            ]
            for name, group in self._groups.items()
        }
        vectors, buffers = [vector.detach() for vector in flat.vectors], dict(self._step.agent.named_buffers())
        return {"is_healthy": self._is_healthy, "vectors": vectors, "buffers": buffers, "states": states}

    def take(self, inputs: list[Tensor]) -> tuple[Tensor, list[Loss]]:
        """Take the step: norms of the phases' gradients and metrics as one tensor, and what is to be written back."""
        report, *written = self._run(inputs)
        return report, self._losses(written)

    def _losses(self, written: Sequence[Tensor]) -> list[Loss]:
        """What losses gave to write back."""
        values = iter(written)
        losses = []
        for names in self._writes:
            write = {name: next(values) for name in names if name != PRIORITY}
            priority = next(values) if PRIORITY in names else None
            losses.append(Loss(torch.empty(()), write=write, priority=priority))
        return losses

    def _trace(self, inputs: Tree) -> GraphModule:
        """The step as a list of tensor operations."""

        def function(*tensors: Tensor) -> list[Tensor]:
            rebuilt = unflattened(inputs, iter(tensors))
            vectors, buffers = rebuilt["vectors"], rebuilt["buffers"]
            scalars, factors = self._named(rebuilt["numbers"])
            stepper = RuleStepper(rebuilt["is_healthy"], vectors, buffers, rebuilt["states"], self._groups, factors)
            batch = self._assemble(rebuilt["batch"])
            return self._outputs(
                self._step.take(self._phases, vectors, buffers, batch, rebuilt["noise"], scalars, stepper)
            )

        with torch.no_grad():  # on tensors without values: what looks at a value can't be a part of a graph
            return make_fx(function, SPLIT, tracing_mode="fake")(*flattened(inputs))

    def _named(self, numbers: Tensor) -> tuple[list[Tensors], list[list[Sequence[Tensor]]]]:
        """Scalars, and factors for each vector of the group, of each phase."""
        values, scalars, factors = iter(numbers.unbind()), list[Tensors](), list[list[Sequence[Tensor]]]()
        for phase in self._phases:
            scalars.append({name: next(values) for name in phase.scalars})
            group, rule = self._groups[phase.optimizer], rule_of(self._groups[phase.optimizer].optimizer)
            sizes = [len(rule.factors(rate, 1.0, settings)) for settings, rate in group.settings()]
            factors.append([[next(values) for _ in range(size)] for size in sizes])
        return scalars, factors

    def _outputs(self, outcome: Outcome) -> list[Tensor]:
        self.metrics = list(outcome.metrics)
        scalars = [*outcome.norms, *outcome.metrics.values()]
        outputs = [torch.stack([scalar.detach().float().reshape(()) for scalar in scalars])]
        self._writes = []
        for loss in outcome.losses:
            self._writes.append([*loss.write, *([PRIORITY] if loss.priority is not None else [])])
            outputs += loss.write.values()
            outputs += [loss.priority] if loss.priority is not None else []
        return outputs


def product_and_sum(added: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """A product to which something is added, as two operations.

    As one it would begin by copying what is added to where the result is to be, which here is a pass over memory of its
    own. As two the sum is taken together with what follows it, an activation for instance.
    """
    product = torch.mm(left, right)
    return (product if alpha == 1 else alpha * product) + (added if beta == 1 else beta * added)


SPLIT = {torch.ops.aten.addmm.default: product_and_sum}
PRIORITY = " priority"  # no key that could be stored
