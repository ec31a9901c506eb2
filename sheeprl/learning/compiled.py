"""A gradient step as one graph, compiled and kept in a folder that survives.

The step is traced once per shape of its inputs: phases, gradients, clipping, optimizer and averages become one list of
tensor operations. For the CPU, Inductor makes a shared library of it (`libraries`); for CUDA, kernels that are started
together (`recorded`).
"""

from __future__ import annotations

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
from sheeprl.learning.metrics import Table
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
        factors: Sequence[Sequence[Sequence[Tensor]]],
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
class Asked:
    """A step that was asked for, of which it isn't known yet whether its gradients were finite.

    Args:
        made: the step as it was compiled.
        phases: of the step.
        report: norms of their gradients and metrics, on the device.
    """

    made: CompiledStep
    phases: Sequence[Phase]
    report: Tensor


class RefusedError(RuntimeError):
    """A step wasn't taken from a phase on, nor were any after it.

    Args:
        phase: whose gradient wasn't finite.
        metrics: of the step.
        steps: how many weren't taken, this one among them.
    """

    def __init__(self, phase: Phase, metrics: Tensors, steps: int) -> None:
        super().__init__(f"the gradient of {phase.optimizer!r} isn't finite")
        self.phase, self.metrics, self.steps = phase, metrics, steps


class Count:
    """How many steps an optimizer has taken, kept beside it until it is to be told.

    Args:
        group: the optimizer.
        states: what it remembers of each of its vectors.

    Raises:
        NoRuleError: what it does isn't known.
    """

    def __init__(self, group: Group, states: Sequence[dict[str, Any]]) -> None:
        self.rule, self.settings, self.states = rule_of(group.optimizer), group.settings(), states
        self.steps = [float(state["step"]) if self.rule.counts else 0.0 for state in states]

    def factors(self, phase: Phase, ahead: int) -> list[float]:
        """What the formula needs for each vector, in a phase that takes the step so far ahead of what was counted."""
        found: list[float] = []
        for steps, (settings, rate) in zip(self.steps, self.settings, strict=True):
            found += self.rule.factors(rate * phase.lr_scale, steps + ahead, settings)
        return found

    def add(self, steps: int) -> None:
        """Count some more."""
        self.steps = [counted + steps for counted in self.steps]

    def tell(self) -> None:
        """Let the optimizer know."""
        if self.rule.counts:
            for state, steps in zip(self.states, self.steps, strict=True):
                state["step"].fill_(steps)


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
        self.notes: list[str] = []  # for the run's log
        self._is_healthy = torch.ones((), dtype=torch.bool, device=self.device)
        self._asked: list[Asked] = []
        self._counts: dict[str, Count] = {}
        self._made: dict[tuple[Any, ...], CompiledStep] = {}
        self._stale: set[tuple[Any, ...]] = set()  # those that use a state which the optimizers don't have any more

    def is_ready(self, phases: Sequence[Phase]) -> bool:
        """Whether the optimizers hold what a graph changes. They make it in their own first step."""
        names = {phase.optimizer for phase in phases}
        if names <= self._counts.keys():
            return True
        try:
            return all(
                rule_of(self.step.groups[name].optimizer).is_begun(state)
                for name in names
                for state in self._states(name)
            )
        except NoRuleError:
            return True  # which `take` will tell

    def _states(self, name: str) -> list[dict[str, Any]]:
        """What an optimizer remembers of each of its vectors."""
        group = self.step.groups[name]
        return [group.optimizer.state[self.step.flat.vectors[number]] for number in group.vectors]

    def take(self, phases: Sequence[Phase], tensors: Tree, noise: Sequence[Tensors]) -> list[Loss]:
        """Take a step. If a gradient isn't finite, this one and all further ones change nothing more.

        Args:
            phases: what it consists of.
            tensors: for `assemble`.
            noise: of each phase.

        Returns:
            What is to be written back. The rest comes of `settle`.

        Raises:
            CompileError: it can't be compiled. Nothing was changed.
        """
        given = {"batch": tensors, "noise": noise, "numbers": torch.tensor(self._numbers(phases))}
        inputs = flattened(given)
        key = (*map(_kind, phases), *((values.shape, values.stride(), values.dtype) for values in inputs))
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = self._timed(phases, moved(given, self.device))
        if key in self._stale:
            made.rebind()
            self._stale.remove(key)
        report, losses = made.take(inputs)
        self._asked.append(Asked(made, phases, report))
        for phase in phases:
            self._counts[phase.optimizer].add(1)
        return losses

    def _numbers(self, phases: Sequence[Phase]) -> list[float]:
        """All phases' scalars and what the optimizers' formulas need, in order; see `CompiledStep`."""
        stepped, numbers = Counter[str](), list[float]()
        for phase in phases:
            name = phase.optimizer
            stepped[name] += 1
            if name not in self._counts:
                try:
                    self._counts[name] = Count(self.step.groups[name], self._states(name))
                except NoRuleError as error:
                    raise CompileError(one_line(error)) from error
            numbers += phase.scalars.values()
            numbers += self._counts[name].factors(phase, stepped[name])
        return numbers

    def settle(self) -> list[Table]:
        """Metrics of all steps since the last call, for which it waits.

        Raises:
            RefusedError: some weren't taken.
        """
        asked, self._asked = self._asked, []
        alike: dict[int, list[int]] = {}
        for number, step in enumerate(asked):
            alike.setdefault(id(step.made), []).append(number)
        reports = [torch.stack([asked[number].report for number in numbers]) for numbers in alike.values()]
        found, refused = list[Table](), list[tuple[int, int, Table]]()
        for numbers, report in zip(alike.values(), moved(reports, torch.device("cpu")), strict=True):
            step = asked[numbers[0]]
            norms, metrics = report[:, : len(step.phases)], report[:, len(step.phases) :]
            found.append(Table(step.made.metrics, metrics))
            for place, phase in torch.nonzero(~torch.isfinite(norms)).tolist()[:1]:
                refused.append((numbers[place], phase, Table(step.made.metrics, metrics[place : place + 1])))
        try:
            if refused:
                number, place, table = min(refused, key=lambda one: one[0])
                steps = [asked[number].phases[place:], *(later.phases for later in asked[number + 1 :])]
                for phase in (phase for phases in steps for phase in phases):
                    self._counts[phase.optimizer].add(-1)
                raise RefusedError(asked[number].phases[place], table.last(), len(steps))
        finally:
            for count in self._counts.values():
                count.tell()
            self._counts = {}
        return found

    def rebind(self) -> None:
        """Use the optimizers' state as it will be at the next step, after another was loaded."""
        self._stale = set(self._made)
        self._asked, self._counts = [], {}
        self._is_healthy.fill_(True)

    def _timed(self, phases: Sequence[Phase], given: Tree) -> CompiledStep:
        """Compile a step, and say how long that took."""
        if len(self._made) == MOST_KINDS:
            raise CompileError(f"they come in more than {MOST_KINDS} kinds, by shapes of batches or by losses")
        began = time.perf_counter()
        made = self._make(phases, given)
        seconds = time.perf_counter() - began
        self.seconds += seconds
        if made.is_new:
            self.notes.append(f"compiled the gradient step in {seconds:.0f} s; it is kept in {cache_folder()}")
        return made

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
        is_healthy: Tensor,
        folder: Path,
    ) -> None:
        self._step, self._phases, self._assemble = step, phases, assemble
        self._groups = {phase.optimizer: step.groups[phase.optimizer] for phase in phases}
        self._is_healthy, self._folder = is_healthy, folder
        self.metrics: list[str] = []
        self.is_new = False
        self._writes: list[list[str]] = []
        # Nothing of `given` may be kept: it lies in the object store, which would never get the memory back.
        graph = self._trace({**self._state(), **given})
        self._library = opened(graph, self._open)
        # Sums over the ranks are not recorded: they wait for each other.
        self._is_recorded = is_healthy.device.type == "cuda" and not has_sums(graph)
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


def _kind(phase: Phase) -> tuple[Any, ...]:
    """What of a phase is a part of the graph."""
    return phase.optimizer, phase.loss, tuple(phase.scalars), tuple(phase.averages)
