"""Compiled and recorded gradient steps of a run, by variant; each is compiled, loaded or recorded when first taken.

A variant is a list of phases and the shapes, strides and dtypes of the input tensors. A run has few: an algorithm that
updates its actor in every second step has two, and a shorter last minibatch adds one. This cache is in memory. The
cache of libraries on disk, which later runs use too, belongs to `compile.cpu` and `compile.cuda_graph`.

Compiled steps run asynchronously on a CUDA device. So `take` doesn't check that gradients are finite; the graph only
skips the writes. `settle` waits for the steps, checks them and updates the optimizers' step counters.
"""

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

COMPILING = "compiling the gradient step, which takes about 20 s; later runs load it from the cache"
MAX_VARIANTS = 16  # of gradient steps: each takes about 20 s to compile, and its library stays in memory


class CompileError(RuntimeError):
    """Raised when a gradient step can't be compiled; the message gives the reason in one line."""


@dataclass(frozen=True)
class PendingStep:
    """Step that was started; it is unknown yet if its gradients are finite.

    Args:
        compiled: the compiled step.
        phases: phases of the step.
        report: report of `CompiledStep.take`, on the step's device.
        was_stopped: true if the step changed nothing, because of `Loss.stop`.
    """

    compiled: CompiledStep
    phases: Sequence[Phase]
    report: Tensor
    was_stopped: bool


class NonFiniteGradientError(RuntimeError):
    """Raised when a gradient isn't finite. Neither this phase nor any phase after it changed a parameter.

    Args:
        phase: first phase whose gradient isn't finite.
        metrics: metrics of its gradient step.
        steps: number of gradient steps not taken, including this one.
    """

    def __init__(self, phase: Phase, metrics: Tensors, steps: int) -> None:
        """Store phase, metrics and number of steps."""
        super().__init__(f"the gradient of {', '.join(phase.groups)} isn't finite")
        self.phase, self.metrics, self.steps = phase, metrics, steps


class StepCounter:
    """Number of steps that an optimizer has taken.

    Adam's bias correction needs this number for each step's inputs. Reading it from the optimizer's state before each
    step would be slow, so this object counts and writes the number back later.

    Args:
        group: parameter group of the optimizer.
        states: optimizer state of each of the group's vectors.

    Raises:
        NoRuleError: the optimizer has no update rule in `learning.optimizers`.
    """

    def __init__(self, group: Group, states: Sequence[dict[str, Any]]) -> None:
        """Read the number from the optimizer's state."""
        self.rule, self.settings, self.states = rule_of(group.optimizer), group.settings(), states
        self.steps = [float(state["step"]) if self.rule.counts_steps else 0.0 for state in states]

    def factors(self, phase: Phase, ahead: int) -> list[float]:
        """Return the factors of the update rule for all vectors, one after the other.

        Args:
            phase: phase that scales the learning rate.
            ahead: position of the step after the counted ones, from 1.
        """
        factors: list[float] = []
        for steps, (settings, rate) in zip(self.steps, self.settings, strict=True):
            factors += self.rule.factors(rate * phase.lr_scale, steps + ahead, settings)
        return factors

    def add(self, steps: int) -> None:
        """Add a number of steps, which is negative for steps that weren't taken."""
        self.steps = [counted + steps for counted in self.steps]

    def write_back(self) -> None:
        """Write the number into the optimizer's state."""
        if self.rule.counts_steps:
            for state, steps in zip(self.states, self.steps, strict=True):
                state["step"].fill_(steps)


class CompiledSteps:
    """Compiled gradient steps of a run.

    Args:
        step: gradient step to compile.
        assemble: function that makes a batch from the input tensors.
        limit: largest number of operations of a compiled graph.
    """

    def __init__(self, step: GradientStep, assemble: Assemble, limit: int) -> None:
        """Start without compiled steps."""
        self.step, self.assemble, self.limit = step, assemble, limit
        self.device = step.flat.vectors[0].device
        self.seconds = 0.0  # total time spent on compiling and loading
        self.notes: list[str] = []  # messages for the log of the run
        self.on_compile: Callable[[str], None] = lambda text: None  # shows a message before a step is compiled
        self.while_compiling: Callable[[], AbstractContextManager[None]] = nullcontext
        self._all_finite = torch.ones((), dtype=torch.bool, device=self.device)
        self._pending: list[PendingStep] = []
        self._counters: dict[str, StepCounter] = {}  # by group, from the first step after `settle` on
        self._compiled: dict[tuple[Any, ...], CompiledStep] = {}  # by variant
        self._stale: set[tuple[Any, ...]] = set()  # variants bound to optimizer state that was replaced
        self._eager: set[tuple[Any, ...]] = set()  # variants that can't be compiled
        self._is_full = False  # the run has more variants than are compiled

    def is_ready(self, phases: Sequence[Phase]) -> bool:
        """Return True if the optimizers have state to bind a graph to; they create it in their first eager step."""
        names = {name for phase in phases for name in phase.groups}
        if names <= self._counters.keys():
            return True
        try:
            return all(
                rule_of(self.step.groups[name].optimizer).has_state(state, settings)
                for name in names
                for state, (settings, _) in zip(self._states(name), self.step.groups[name].settings(), strict=True)
            )
        except NoRuleError:
            return True  # `take` raises the error

    def _states(self, name: str) -> list[dict[str, Any]]:
        """Return the optimizer state of each vector of a group."""
        group = self.step.groups[name]
        return [group.optimizer.state[self.step.flat.vectors[number]] for number in group.vectors]

    @property
    def any_compiled(self) -> bool:
        """Return True if a variant was compiled."""
        return bool(self._compiled)

    def take(self, phases: Sequence[Phase], tensors: Tree, noise: Sequence[Tensors]) -> tuple[list[Loss], bool] | None:
        """Take a step. If a gradient isn't finite, this step and all later ones change nothing more.

        Args:
            phases: phases of the step.
            tensors: input of `assemble`.
            noise: noise of each phase.

        Returns:
            The losses that have values to write back, and True if the step changed nothing because of `Loss.stop`.
            `settle` returns the metrics. None if the step must run eagerly, because this variant can't be compiled.

        Raises:
            CompileError: the step can't be compiled, found at its first call. Nothing was changed.
        """
        tree = {"batch": tensors, "noise": noise, "numbers": torch.tensor(self._numbers(phases), dtype=torch.float32)}
        inputs = flattened(tree)
        variant = (*map(_signature, phases), *((values.shape, values.stride(), values.dtype) for values in inputs))
        compiled = self._compiled.get(variant)
        if compiled is None:
            if variant in self._eager or self._is_full:
                return None
            try:
                compiled = self._compiled[variant] = self._compile_timed(phases, tree)
            except CompileError:
                self._eager.add(variant)
                raise
        if variant in self._stale:
            compiled.rebind()
            self._stale.remove(variant)
        report, losses = compiled.take(inputs)
        # A step that may stop the round is waited for, so that no further step of the round is started.
        was_stopped = compiled.may_stop and bool(report[-1])
        self._pending.append(PendingStep(compiled, phases, report, was_stopped))
        if not was_stopped:
            self._count(phases, 1)
        return losses, was_stopped

    def _count(self, phases: Sequence[Phase], steps: int) -> None:
        """Add a number of steps to the counters of the phases' groups."""
        for phase in phases:
            for name in phase.groups:
                self._counters[name].add(steps)

    def _numbers(self, phases: Sequence[Phase]) -> list[float]:
        """Return for each phase its scalars, then the factors of the update rule; see `CompiledStep`."""
        steps, numbers = Counter[str](), list[float]()
        for phase in phases:
            numbers += phase.scalars.values()
            for name in phase.groups:
                steps[name] += 1
                if name not in self._counters:
                    try:
                        self._counters[name] = StepCounter(self.step.groups[name], self._states(name))
                    except NoRuleError as error:
                        raise CompileError(one_line(error)) from error
                numbers += self._counters[name].factors(phase, steps[name])
        return numbers

    def settle(self) -> list[Table]:
        """Wait for all steps since the last call and return their metrics, one table per variant.

        Raises:
            NonFiniteGradientError: a gradient wasn't finite, so some steps weren't taken.
        """
        pending, self._pending = self._pending, []
        by_variant: dict[int, list[int]] = {}
        for number, step in enumerate(pending):
            by_variant.setdefault(id(step.compiled), []).append(number)
        reports = [torch.stack([pending[number].report for number in numbers]) for numbers in by_variant.values()]
        tables, failures = list[Table](), list[tuple[int, int, Table]]()
        for numbers, report in zip(by_variant.values(), moved(reports, torch.device("cpu")), strict=True):
            step = pending[numbers[0]]
            places = [place for place, phase in enumerate(step.phases) for _ in phase.groups]  # phase of each norm
            metrics = report[:, : len(step.compiled.metrics)]
            tables.append(Table(step.compiled.metrics, metrics))
            for row, norm in torch.nonzero(~torch.isfinite(metrics[:, : len(places)])).tolist()[:1]:
                losses = Table(step.compiled.metrics[len(places) :], metrics[row : row + 1, len(places) :])
                failures.append((numbers[row], places[norm], losses))
        try:
            if failures:
                first, place, table = min(failures, key=lambda failure: failure[0])
                counted = [step for step in pending[first:] if not step.was_stopped]
                for step in counted:
                    self._count(step.phases[place if step is pending[first] else 0 :], -1)
                raise NonFiniteGradientError(pending[first].phases[place], table.last(), len(counted))
        finally:
            for counter in self._counters.values():
                counter.write_back()
            self._counters = {}
        return tables

    def rebind(self) -> None:
        """Bind all compiled steps to the optimizers' new state, after another one was loaded."""
        self._stale = set(self._compiled)
        self._pending, self._counters = [], {}
        self._all_finite.fill_(True)

    def _compile_timed(self, phases: Sequence[Phase], inputs: Tree) -> CompiledStep:
        """Compile or record a step and add the time to `seconds`; note it unless it was loaded from the cache."""
        excluded = next((phase for phase in phases if not phase.compile), None)
        if excluded is not None and not self._can_record:
            groups = " and ".join(map(repr, excluded.groups))
            raise CompileError(
                f"the algorithm excludes its phase {groups} as a whole, because it takes long to compile; on a "
                "CPU, parts that it runs many times are compiled by themselves"
            )
        if len(self._compiled) + len(self._eager) == MAX_VARIANTS:
            self._is_full = True
            raise CompileError(
                f"the run has more than {MAX_VARIANTS} variants of gradient steps; use fewer batch shapes and phases"
            )
        started = time.perf_counter()
        compiled = self._compile(phases, inputs, self.limit if excluded is None else 0)
        seconds = time.perf_counter() - started
        self.seconds += seconds
        if compiled.is_new:
            self.notes.append(f"compiled the gradient step in {seconds:.0f} s; cached in {cache_folder()}")
        elif compiled.is_recorded:
            self.notes.append(
                f"recorded the gradient step as a CUDA graph in {seconds:.0f} s; it is too large to be compiled"
            )
        return compiled

    @property
    def _can_record(self) -> bool:
        """Return True if a step can be recorded; with several ranks, its sums wait for the other ranks."""
        return self.device.type == "cuda" and self.step.ranks.world == 1

    def _compile(self, phases: Sequence[Phase], inputs: Tree, limit: int) -> CompiledStep:
        """Compile a step of at most `limit` operations or load it from the cache; record a larger one.

        All ranks compile the step or none does. An eager step differs from a compiled one in the last bits, so mixed
        ranks would drift apart.
        """
        if self.device.type not in ("cpu", "cuda"):
            raise CompileError(f"only CPU and CUDA devices are supported, not {self.device}; use trainer.compile=false")
        compiled: CompiledStep | CompileError
        try:
            make_cache_folder()
            with self.while_compiling(), quiet(), not_collected():
                compiled = CompiledStep(
                    self.step,
                    phases,
                    self.assemble,
                    moved(inputs, self.device),
                    self._all_finite,
                    cache_folder(),
                    limit,
                    self._can_record,
                    lambda: self.on_compile(COMPILING),
                )
                compiled.capture(flattened(inputs))
        except Exception as error:  # tracer and compiler can raise any error
            compiled = CompileError(one_line(error)[:300])
            compiled.__cause__ = error
        failures = self.step.ranks.sum(torch.tensor(float(isinstance(compiled, CompileError)), device=self.device))
        if isinstance(compiled, CompileError):
            raise compiled
        if failures > 0:
            raise CompileError("another rank can't compile the gradient step")
        return compiled


def _signature(phase: Phase) -> tuple[Any, ...]:
    """Return the part of a phase that its graph depends on."""
    return phase.optimizer, phase.loss, tuple(phase.scalars), tuple(phase.target_updates)
