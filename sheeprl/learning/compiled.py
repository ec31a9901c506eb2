"""A gradient step as one graph, compiled and kept in a folder that survives.

The step is traced once per shape of its inputs: phases, gradients, clipping, optimizer and averages become one list of
tensor operations. For the CPU, Inductor makes a shared library of it (`libraries`); for CUDA, kernels that are started
together (`recorded`).
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from sheeprl.algos.base import Loss, Phase, Tensors
from sheeprl.errors import one_line
from sheeprl.garbage import not_collected
from sheeprl.learning.flat import Span
from sheeprl.learning.libraries import cache_folder, open_library, quiet
from sheeprl.learning.parts import Library, has_sums, opened
from sheeprl.learning.recorded import Recorded, open_kernels
from sheeprl.learning.rules import NoRuleError, rule_of
from sheeprl.learning.step import GradientStep, Group, Outcome
from sheeprl.tensors import Tree, flattened, moved, unflattened

MOST_KINDS = 16  # of gradient steps: each takes some 20 s to compile, and its library stays in memory
Assemble = Callable[[Tree], TensorDict]
"""From the tensors that a step is given, to the batch that losses see."""


class CompileError(RuntimeError):
    """A step can't be compiled; it says why in a line."""


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
        is_healthy: Tensor,
        vectors: Sequence[Tensor],
        buffers: Tensors,
        states: Mapping[str, Sequence[Tensors]],
        groups: Mapping[str, Group],
        factors: Sequence[Sequence[Tensor]],
    ) -> None:
        self.is_healthy = is_healthy
        self.vectors, self.buffers, self.states, self.groups = vectors, buffers, states, groups
        self.factors = iter(factors)

    def step(self, phase: Phase, loss: Loss, gradients: Sequence[Tensor], norm: Tensor) -> None:
        """Step the phase's group."""
        self.is_healthy.logical_and_(torch.isfinite(norm))
        group, states, factors = self.groups[phase.optimizer], self.states[phase.optimizer], next(self.factors)
        rule, settings = rule_of(group.optimizer), [settings for settings, _ in group.settings()]
        for place, (number, gradient) in enumerate(zip(group.vectors, gradients, strict=True)):
            state = states[place]
            vector, new = rule.step(self.vectors[number], gradient, state, settings[place], factors[place])
            self._put(self.vectors[number], vector)
            for name, value in new.items():
                self._put(state[name], value)

    def follow(self, span: Span, tau: float) -> None:
        """Move a part of a target vector towards what it follows."""
        target, online = self.vectors[span.target], self.vectors[span.online]
        old = target[span.target_slice]
        self._put(old, old + tau * (online[span.online_slice] - old))

    def keep(self, name: str, value: Tensor) -> None:
        """Put a value into the agent's buffer of that name."""
        self._put(self.buffers[name], value)

    def _put(self, old: Tensor, new: Tensor) -> None:
        old.copy_(torch.where(self.is_healthy, new, old))


@dataclass(frozen=True)
class Taken:
    """What a compiled step gave; whether it was taken shows in `CompiledSteps.refused`.

    Args:
        metrics: of all phases.
        losses: what is to be written back.
        notes: what is worth a line in the run's log.
    """

    metrics: Tensors
    losses: list[Loss]
    notes: list[str]


@dataclass(frozen=True)
class Asked:
    """A step that was asked for, of which it isn't known yet whether its gradients were finite.

    Args:
        phases: of the step.
        norms: `[phases]`, of their gradients.
        metrics: of all phases.
    """

    phases: Sequence[Phase]
    norms: Tensor
    metrics: Tensors


@dataclass(frozen=True)
class Refusal:
    """A step that wasn't taken from a phase on, nor were any after it.

    Args:
        phase: whose gradient wasn't finite.
        metrics: of the step.
        steps: how many weren't taken, this one among them.
    """

    phase: Phase
    metrics: Tensors
    steps: int


class CompiledSteps:
    """The gradient steps of a run, each kind of them compiled when it is first taken.

    Args:
        step: what they consist of.
        assemble: makes batches.
    """

    def __init__(self, step: GradientStep, assemble: Assemble) -> None:
        self.step, self.assemble = step, assemble
        self.device = step.flat.vectors[0].device
        self.seconds = 0.0  # that compiling has taken
        self._is_healthy = torch.ones((), dtype=torch.bool, device=self.device)
        self._asked: list[Asked] = []
        self._made: dict[tuple[Any, ...], CompiledStep] = {}
        self._stale: set[tuple[Any, ...]] = set()  # those that use a state which the optimizers don't have any more

    def is_ready(self, phases: Sequence[Phase]) -> bool:
        """Whether the optimizers hold what a graph changes. They make it in their own first step."""
        groups = [self.step.groups[phase.optimizer] for phase in phases]
        try:
            return all(
                rule_of(group.optimizer).is_begun(group.optimizer.state[self.step.flat.vectors[number]])
                for group in groups
                for number in group.vectors
            )
        except NoRuleError:
            return True  # which `take` will tell

    def take(
        self, phases: Sequence[Phase], tensors: Tree, noise: Sequence[Tensors], scalars: Sequence[Tensors]
    ) -> Taken:
        """Take a step. If a gradient isn't finite, this one and all further ones change nothing more.

        Args:
            phases: what it consists of.
            tensors: for `assemble`.
            noise: of each phase.
            scalars: of each phase.

        Raises:
            CompileError: it can't be compiled. Nothing was changed.
        """
        given = {"batch": tensors, "noise": noise, "scalars": scalars, "factors": self._factors(phases)}
        inputs = flattened(given)
        key = (*map(_kind, phases), *((values.shape, values.stride(), values.dtype) for values in inputs))
        notes = []
        if key not in self._made:
            if len(self._made) == MOST_KINDS:
                raise CompileError(f"they come in more than {MOST_KINDS} kinds, by shapes of batches or by losses")
            began = time.perf_counter()
            made = self._made[key] = self._make(phases, moved(given, self.device))
            self.seconds += time.perf_counter() - began
            notes = [made.note] if made.note else []
        if key in self._stale:
            self._made[key].rebind()
            self._stale.remove(key)
        norms, metrics, losses = self._made[key].take(inputs)
        self._asked.append(Asked(phases, norms, metrics))
        self._count([phases], 1)
        return Taken(metrics, losses, notes)

    def refused(self) -> Refusal | None:
        """The first step since the last call that wasn't taken; waits for all of them."""
        asked, self._asked = self._asked, []
        together = moved([step.norms for step in asked], torch.device("cpu"))
        for number, (step, norms) in enumerate(zip(asked, together, strict=True)):
            for place, norm in enumerate(norms.tolist()):
                if not math.isfinite(norm):
                    self._count([step.phases[place:], *(later.phases for later in asked[number + 1 :])], -1)
                    return Refusal(step.phases[place], step.metrics, len(asked) - number)
        return None

    def _count(self, steps: Sequence[Sequence[Phase]], by: int) -> None:
        """Change what the optimizers have counted of their steps."""
        for phase in (phase for phases in steps for phase in phases):
            group = self.step.groups[phase.optimizer]
            if rule_of(group.optimizer).counts:
                for number in group.vectors:
                    group.optimizer.state[self.step.flat.vectors[number]]["step"] += by

    def rebind(self) -> None:
        """Use the optimizers' state as it will be at the next step, after another was loaded."""
        self._stale = set(self._made)
        self._asked = []
        self._is_healthy.fill_(True)

    def _factors(self, phases: Sequence[Phase]) -> list[list[Tensor]]:
        """What the optimizers' formulas need of each phase, for each vector of its group."""
        stepped: Counter[str] = Counter()
        factors = []
        for phase in phases:
            stepped[phase.optimizer] += 1
            factors.append(self._factors_of(phase, stepped[phase.optimizer]))
        return factors

    def _factors_of(self, phase: Phase, ahead: int) -> list[Tensor]:
        """The same of a phase that takes its optimizer's step so far ahead of what that has counted."""
        vectors, group = self.step.flat.vectors, self.step.groups[phase.optimizer]
        try:
            rule = rule_of(group.optimizer)
        except NoRuleError:
            return []  # which is told where the step is traced
        factors = []
        for number, (settings, rate) in zip(group.vectors, group.settings(), strict=True):
            step = ahead + (float(group.optimizer.state[vectors[number]]["step"]) if rule.counts else 0)
            factors.append(torch.tensor(rule.factors(rate * phase.lr_scale, step, settings)))
        return factors

    def _make(self, phases: Sequence[Phase], given: Tree) -> CompiledStep:
        """Compile a step, on all ranks or on none: steps that differ in the last bits would drive them apart."""
        if self.device.type not in ("cpu", "cuda"):
            raise CompileError(f"that is for CPU and CUDA, and they are taken on {self.device}")
        made: CompiledStep | CompileError
        try:
            with quiet(), not_collected():
                made = CompiledStep(self.step, phases, self.assemble, given, self._is_healthy, cache_folder())
        except Exception as error:  # tracer and compiler may fail in any way
            made = CompileError(one_line(error)[:300])
            made.__cause__ = error
        failures = self.step.ranks.sum(torch.tensor(float(isinstance(made, CompileError)), device=self.device))
        if isinstance(made, CompileError):
            raise made
        if failures > 0:
            raise CompileError("another rank can't compile them")
        return made


class CompiledStep:
    """A gradient step as a library that was compiled for inputs of one shape.

    Args:
        step: what it consists of.
        phases: of that step.
        assemble: makes the batch.
        given: what each call gives: `batch`, `noise`, `scalars` and `factors`; here on the device, later anywhere.
        is_healthy: scalar; whether all gradients have been finite.
        folder: where libraries are kept.
    """

    def __init__(
        self,
        step: GradientStep,
        phases: Sequence[Phase],
        assemble: Assemble,
        given: Tree,
        is_healthy: Tensor,
        folder: Path,
    ) -> None:
        self._step, self._phases, self._assemble = step, phases, assemble
        self._groups = {phase.optimizer: step.groups[phase.optimizer] for phase in phases}
        self._is_healthy, self._folder = is_healthy, folder
        self._metrics: list[str] = []
        self._writes: list[list[str]] = []
        # Nothing of `given` may be kept: it lies in the object store, which would never get the memory back.
        began, self._is_new = time.perf_counter(), False
        graph = self._trace({**self._state(), **given})
        self._library = opened(graph, self._open)
        # Sums over the ranks are not recorded: they wait for each other.
        self._is_recorded = is_healthy.device.type == "cuda" and not has_sums(graph)
        self.rebind()
        made = f"compiled the gradient step in {time.perf_counter() - began:.0f} s; it is kept in {folder}"
        self.note = made if self._is_new else ""

    def _open(self, graph: GraphModule, examples: list[Tensor]) -> Library:
        """What carries out a part of the graph."""
        open_part = open_library if self._is_healthy.device.type == "cpu" else open_kernels
        library, is_new = open_part(graph, examples, self._folder)
        self._is_new |= is_new
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

    def take(self, inputs: list[Tensor]) -> tuple[Tensor, Tensors, list[Loss]]:
        """Take the step: norms of the phases' gradients, metrics, and what is to be written back."""
        report, *written = self._run(inputs)
        phases = len(self._phases)
        metrics = dict(zip(self._metrics, report[phases:].unbind(), strict=True))
        return report[:phases], metrics, self._losses(written)

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
            stepper = RuleStepper(
                rebuilt["is_healthy"], vectors, buffers, rebuilt["states"], self._groups, rebuilt["factors"]
            )
            batch = self._assemble(rebuilt["batch"])
            return self._outputs(
                self._step.take(self._phases, vectors, buffers, batch, rebuilt["noise"], rebuilt["scalars"], stepper)
            )

        with torch.no_grad():  # on tensors without values: what looks at a value can't be a part of a graph
            return make_fx(function, SPLIT, tracing_mode="fake")(*flattened(inputs))

    def _outputs(self, outcome: Outcome) -> list[Tensor]:
        self._metrics = list(outcome.metrics)
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


def _kind(phase: Phase) -> tuple[Any, ...]:
    """What of a phase is a part of the graph."""
    return phase.optimizer, phase.loss, tuple(phase.scalars), tuple(phase.averages)
