"""A gradient step as one graph, compiled ahead of time and kept in a folder that survives.

The step is traced once per shape of its inputs: phases, gradients, clipping, optimizer and averages become one list of
tensor operations, which Inductor makes a shared library of. Whoever finds a library of the same operations in the
folder loads it instead, which takes milliseconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import operator
import os
import platform
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torch import _inductor as inductor
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from sheeprl.algos.base import Loss, Phase, Tensors
from sheeprl.errors import one_line
from sheeprl.garbage import not_collected
from sheeprl.learning.batches import Tree
from sheeprl.learning.flat import Span
from sheeprl.learning.parts import Library, opened
from sheeprl.learning.rules import NoRuleError, rule_of
from sheeprl.learning.step import GradientStep, Group, Outcome

MOST_KINDS = 16  # of gradient steps: each takes some 20 s to compile, and its library stays in memory
Assemble = Callable[[Tree], TensorDict]
"""From the tensors that a step is given, to the batch that losses see."""


def cache_folder() -> Path:
    """Where compiled libraries are kept: `SHEEPRL_CACHE`, or a folder of the user's."""
    root = (
        os.environ.get("SHEEPRL_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sheeprl"
    )
    return Path(root) / "compiled"


class CompileError(RuntimeError):
    """A step can't be compiled; it says why in a line."""


class RuleStepper:
    """Applies the optimizers' formulas to the tensors of a graph that is being traced.

    From the first gradient on that isn't finite, everything is put back as it was.

    Args:
        vectors: of the agent's parameters.
        buffers: of the agent.
        states: of the optimizers, by group, for each of its vectors.
        groups: the optimizers.
        factors: of each phase, for each vector of its group, see `learning.rules`.
    """

    def __init__(
        self,
        vectors: Sequence[Tensor],
        buffers: Tensors,
        states: Mapping[str, Sequence[Tensors]],
        groups: Mapping[str, Group],
        factors: Sequence[Sequence[Tensor]],
    ) -> None:
        self.vectors, self.buffers, self.states, self.groups = vectors, buffers, states, groups
        self.factors = iter(factors)
        self.is_finite: Tensor | None = None

    def step(self, phase: Phase, loss: Loss, gradients: Sequence[Tensor], norm: Tensor) -> None:
        """Step the phase's group."""
        finite = torch.isfinite(norm)
        self.is_finite = finite if self.is_finite is None else self.is_finite & finite
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
        assert self.is_finite is not None
        old.copy_(torch.where(self.is_finite, new, old))


@dataclass(frozen=True)
class Taken:
    """What a compiled step gave.

    Args:
        norms: of the phases' gradients; nothing was changed from the first that isn't finite on.
        metrics: of all phases.
        losses: what is to be written back.
        notes: what is worth a line in the run's log.
    """

    norms: list[float]
    metrics: Tensors
    losses: list[Loss]
    notes: list[str]


class CompiledSteps:
    """The gradient steps of a run, each kind of them compiled when it is first taken.

    Args:
        step: what they consist of.
        assemble: makes batches.
    """

    def __init__(self, step: GradientStep, assemble: Assemble) -> None:
        self.step, self.assemble = step, assemble
        self._made: dict[tuple[Any, ...], CompiledStep] = {}
        self.seconds = 0.0  # that compiling has taken
        self._stale: set[tuple[Any, ...]] = set()  # those that use a state which the optimizers don't have any more

    def is_ready(self, phases: Sequence[Phase]) -> bool:
        """Whether the optimizers hold what a graph changes. They make it in their own first step."""
        groups = [self.step.groups[phase.optimizer] for phase in phases]
        try:
            return all(
                name in group.optimizer.state[self.step.flat.vectors[number]]
                for group in groups
                for number in group.vectors
                for name in rule_of(group.optimizer).remembers
            )
        except NoRuleError:
            return True  # which `take` will tell

    def take(
        self, phases: Sequence[Phase], tensors: Tree, noise: Sequence[Tensors], scalars: Sequence[Tensors]
    ) -> Taken:
        """Take a step.

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
            made = self._made[key] = self._make(phases, given)
            self.seconds += time.perf_counter() - began
            notes = [made.note] if made.note else []
        if key in self._stale:
            self._made[key].rebind()
            self._stale.remove(key)
        return self._made[key].take(inputs, notes)

    def rebind(self) -> None:
        """Use the optimizers' state as it will be at the next step, after another was loaded."""
        self._stale = set(self._made)

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
            step = ahead + (float(group.optimizer.state[vectors[number]]["step"]) if "step" in rule.remembers else 0)
            values = rule.factors(rate * phase.lr_scale, step, settings)
            factors.append(torch.tensor(values, device=vectors[number].device))
        return factors

    def _make(self, phases: Sequence[Phase], given: Tree) -> CompiledStep:
        """Compile a step, on all ranks or on none: steps that differ in the last bits would drive them apart."""
        if (device := self.step.flat.vectors[0].device).type != "cpu":
            raise CompileError(f"that is for the CPU, and they are taken on {device}")
        made: CompiledStep | CompileError
        try:
            with quiet(), not_collected():
                made = CompiledStep(self.step, phases, self.assemble, given, cache_folder())
        except Exception as error:  # tracer and compiler may fail in any way
            made = CompileError(one_line(error)[:300])
            made.__cause__ = error
        failures = self.step.ranks.sum(torch.tensor(float(isinstance(made, CompileError))))
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
        given: what each call gives: `batch`, `noise`, `scalars` and `factors`.
        folder: where libraries are kept.
    """

    def __init__(
        self, step: GradientStep, phases: Sequence[Phase], assemble: Assemble, given: Tree, folder: Path
    ) -> None:
        self._step, self._phases, self._assemble = step, phases, assemble
        self._groups = {phase.optimizer: step.groups[phase.optimizer] for phase in phases}
        self._metrics: list[str] = []
        self._writes: list[list[str]] = []
        self.note = ""
        self.rebind()
        # Nothing of `given` may be kept: it lies in the object store, which would never get the memory back.
        inputs = {**self._state, **given}
        began, self._is_new = time.perf_counter(), False
        self._run = opened(self._trace(inputs), lambda graph, examples: self._open(graph, examples, folder))
        if self._is_new:
            self.note = f"compiled the gradient step in {time.perf_counter() - began:.0f} s; it is kept in {folder}"

    def _open(self, graph: GraphModule, examples: list[Tensor], folder: Path) -> Library:
        """Load the library, which is made first if it isn't in the folder, or damaged."""
        path = folder / f"{fingerprint(graph, examples)}.pt2"
        if path.exists():
            with contextlib.suppress(Exception):  # which may be anything, from a file that was cut short
                return load_library(path)
        self._is_new = True
        compile_graph(graph, examples, path)
        return load_library(path)

    def rebind(self) -> None:
        """Use the optimizers' state as it is now."""
        flat = self._step.flat
        states = {
            name: [
                {key: group.optimizer.state[flat.vectors[number]][key] for key in rule_of(group.optimizer).remembers}
                for number in group.vectors
            ]
            for name, group in self._groups.items()
        }
        vectors = [vector.detach() for vector in flat.vectors]
        self._state = {"vectors": vectors, "buffers": dict(self._step.agent.named_buffers()), "states": states}
        self._changed = flattened(self._state)

    def take(self, inputs: list[Tensor], notes: list[str]) -> Taken:
        """Take the step."""
        report, *written = self._run(self._changed + inputs)
        phases = len(self._phases)
        metrics = dict(zip(self._metrics, report[phases:].unbind(), strict=True))
        return Taken(report[:phases].tolist(), metrics, self._losses(written), notes)

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
            stepper = RuleStepper(vectors, buffers, rebuilt["states"], self._groups, rebuilt["factors"])
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


# ------------------------------------------------------------------------------------------- trees of tensors


def flattened(tree: Any) -> list[Tensor]:
    """The tensors in nested dicts and lists, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    values = tree.values() if isinstance(tree, Mapping) else tree
    return [tensor for value in values for tensor in flattened(value)]


def unflattened(like: Any, tensors: Iterator[Tensor]) -> Any:
    """Nested dicts and lists like those, of other tensors."""
    if isinstance(like, Tensor):
        return next(tensors)
    if isinstance(like, Mapping):
        return {name: unflattened(value, tensors) for name, value in like.items()}
    return [unflattened(value, tensors) for value in like]


# -------------------------------------------------------------------------------------------------- libraries


def fingerprint(graph: GraphModule, inputs: Sequence[Tensor]) -> str:
    """What decides how a graph's library looks: operations, constants, inputs, versions, threads and the processor."""
    parts = [graph.code, torch.__version__, torch.get_num_threads(), processor()]
    parts += [(value.shape, value.stride(), value.dtype, value.device) for value in inputs]
    digest = hashlib.sha256(repr(parts).encode())
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            value = operator.attrgetter(node.target)(graph)
            digest.update(f"{node.target} {value.dtype} {value.tolist()}".encode())
    return digest.hexdigest()[:32]


def processor() -> str:
    """What the processor can do: libraries are made for the one at hand, and a folder may be seen from many."""
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:  # no Linux
        told = ""
    flags = next((line for line in told.splitlines() if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {flags}"


def compile_graph(graph: GraphModule, inputs: Sequence[Tensor], path: Path) -> None:
    """Make a library of a graph; whole or not at all, whoever else makes it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        program = torch.export.export(graph, tuple(inputs), strict=False)
        try:
            made = _package(program, Path(folder) / path.name, trusting=True)
        except Exception:  # a compiler that doesn't know the processor's newest instructions
            made = _package(program, Path(folder) / path.name, trusting=False)
        os.replace(made, path)


def _package(program: ExportedProgram, path: Path, trusting: bool) -> str:
    """Compile a program, for the processor as it says it is, or for what of that was tried, which takes ten seconds."""
    settings = {"pattern_matcher": False}  # which would make one operation again of what SPLIT has made two of
    if trusting:
        settings["cpp.vec_isa_ok"] = True
    if hasattr(inductor.config.aot_inductor, "precompile_headers"):
        # To precompile them takes longer than to compile a library with them, and most runs need one library.
        settings["aot_inductor.precompile_headers"] = False
    with inductor.config.patch(settings):
        return str(inductor.aoti_compile_and_package(program, package_path=str(path)))


def load_library(path: Path) -> Library:
    """What calls a library: from the tensors of its inputs to those of its outputs."""
    # That a processor does what its kind does needn't be tried; trying it takes seconds.
    with removed_afterwards(), inductor.config.patch({"cpp.vec_isa_ok": True}):
        library: Library = inductor.aoti_load_package(str(path)).loader.boxed_run
    return library


@contextlib.contextmanager
def removed_afterwards() -> Iterator[None]:
    """Remove what the loader unpacks, which it does itself only at an end of the process that is no kill."""
    before = os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what the compiler says of itself."""
    logger = logging.getLogger("torch._inductor")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
