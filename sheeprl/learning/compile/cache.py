"""The gradient steps of a run, each kind of them compiled once and kept in a folder that survives."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sheeprl.algos.base import Loss, Phase, Tensors
from sheeprl.learning.compile.cpu import cache_folder, make_cache_folder, quiet
from sheeprl.learning.compile.tracing import Assemble, CompiledStep
from sheeprl.learning.metrics import Table
from sheeprl.learning.optimizers import NoRuleError, rule_of
from sheeprl.learning.step import GradientStep, Group
from sheeprl.utils.errors import one_line
from sheeprl.utils.gc_control import not_collected
from sheeprl.utils.tensors import Tree, flattened, moved

MOST_KINDS = 16  # of gradient steps: each takes some 20 s to compile, and its library stays in memory


class CompileError(RuntimeError):
    """A step can't be compiled; it says why in a line."""


@dataclass(frozen=True)
class LibraryRequest:
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
        self.while_compiling: Callable[[], AbstractContextManager[None]] = nullcontext
        self._is_healthy = torch.ones((), dtype=torch.bool, device=self.device)
        self._asked: list[LibraryRequest] = []
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
        given = {"batch": tensors, "noise": noise, "numbers": torch.tensor(self._numbers(phases), dtype=torch.float32)}
        inputs = flattened(given)
        key = (*map(_kind, phases), *((values.shape, values.stride(), values.dtype) for values in inputs))
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = self._timed(phases, moved(given, self.device))
        if key in self._stale:
            made.rebind()
            self._stale.remove(key)
        report, losses = made.take(inputs)
        self._asked.append(LibraryRequest(made, phases, report))
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
            make_cache_folder()
            with self.while_compiling(), quiet(), not_collected():
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


def _kind(phase: Phase) -> tuple[Any, ...]:
    """What of a phase is a part of the graph."""
    return phase.optimizer, phase.loss, tuple(phase.scalars), tuple(phase.averages)
