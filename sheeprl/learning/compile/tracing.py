"""Trace a gradient step into one graph, and run what was compiled from it; or record a step without compiling it.

The graph holds the whole step: losses, gradients, clipping, optimizer steps and target updates. `make_fx` runs
`GradientStep.take` on fake tensors, which have a shape but no values, and records each operation as a node. Python code
disappears: loops are unrolled, and a number that isn't an input becomes a constant. A condition on a value fails.

A graph takes tensors in a fixed order: first those that the step changes in place (`CompiledStep._state`), then the
inputs of each call (batch, noise, numbers). It returns one report tensor, then the values to write back.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from sheeprl.algos.base import Loss, Phase, Tensors
from sheeprl.learning.compile.allreduce import Library, has_sums, open_graph
from sheeprl.learning.compile.cpu import open_library
from sheeprl.learning.compile.cuda_graph import CudaGraphLibrary, open_kernels
from sheeprl.learning.flat_parameters import Span
from sheeprl.learning.metrics import norm_names
from sheeprl.learning.optimizers import rule_of
from sheeprl.learning.step import GradientStep, Group, Outcome
from sheeprl.utils.tensors import Tree, flattened, moved, unflattened

Assemble = Callable[[Tree], TensorDict]
"""Function that makes the batch of the losses from the input tensors of a step."""


class GraphTooLargeError(RuntimeError):
    """Raised when a traced graph has too many operations to be compiled; the message gives the limit in one line."""


class RuleStepper:
    """Stepper of a traced step: applies the optimizers' update rules of `learning.optimizers`.

    A graph can't raise an error for a gradient that isn't finite. Instead, this stepper clears the flag `all_finite`.
    While the flag is false, every write keeps the old value, in this step and in all later ones. A true `Loss.stop`
    does the same, but in this step only: the learner takes no further step of the round.

    Args:
        all_finite: boolean scalar; true while all gradients have been finite.
        vectors: flat vectors of the agent's parameters.
        buffers: buffers of the agent by name.
        states: optimizer state of each vector, by group.
        groups: parameter groups by name.
        factors: factors of the update rule, for each group of each phase and each vector of it, scalars.
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
        """Store the tensors of the graph."""
        self.all_finite = all_finite
        self.vectors, self.buffers, self.states, self.groups = vectors, buffers, states, groups
        self._factors = iter(factors)
        self._stop: Tensor | None = None
        self._may_write = all_finite

    def step(self, phase: Phase, loss: Loss, gradients: Sequence[Sequence[Tensor]], norms: Sequence[Tensor]) -> None:
        """Take the optimizer steps of the phase's groups, unless a gradient wasn't finite or a loss stops the step."""
        for norm in norms:
            self.all_finite.logical_and_(torch.isfinite(norm))
        self._stop = self._stop if loss.stop is None else loss.stop
        if self._stop is not None:
            self._may_write = self.all_finite & ~self._stop
        for name, part in zip(phase.groups, gradients, strict=True):
            self._step_group(name, part, loss.lr_scale)

    def _step_group(self, name: str, gradients: Sequence[Tensor], lr_scale: Tensor | None) -> None:
        """Take the optimizer step of one group, with its learning rate times `lr_scale`."""
        group, states, factors = self.groups[name], self.states[name], next(self._factors)
        rule, settings = rule_of(group.optimizer), [settings for settings, _ in group.settings()]
        for place, (number, gradient) in enumerate(zip(group.vectors, gradients, strict=True)):
            state, numbers = states[place], factors[place]
            numbers = numbers if lr_scale is None else rule.scaled(numbers, lr_scale)
            vector, new_state = rule.step(self.vectors[number], gradient, state, settings[place], numbers)
            self._write(self.vectors[number], vector)
            for name, value in new_state.items():
                self._write(state[name], value)

    def polyak_update(self, span: Span, tau: float) -> None:
        """Update a slice of a target vector: θ_target ← θ_target + τ (θ_online − θ_target)."""
        target, online = self.vectors[span.target], self.vectors[span.online]
        old = target[span.target_slice]
        self._write(old, old + tau * (online[span.online_slice] - old))

    def set_buffer(self, name: str, value: Tensor) -> None:
        """Set a buffer of the agent."""
        self._write(self.buffers[name], value)

    def _write(self, old: Tensor, new: Tensor) -> None:
        """Overwrite a tensor, if all gradients have been finite and the step isn't stopped."""
        old.copy_(torch.where(self._may_write, new, old))


class CompiledStep:
    """Gradient step, compiled or recorded for one list of phases and inputs of one shape.

    A recorded step is a CUDA graph of the kernels that the eager step launches.

    Args:
        step: gradient step to trace.
        phases: phases of the step.
        assemble: function that makes the batch from the input tensors.
        inputs: example inputs on the device of the step: `batch`, `noise` of each phase, and `numbers`, which holds for
            each phase its scalars, then the factors of the update rule for each vector of its groups. Inputs of later
            calls may be on the CPU.
        all_finite: boolean scalar; true while all gradients have been finite. The step changes it in place.
        folder: cache folder of compiled libraries.
        limit: largest number of operations of a compiled graph; 0 to compile none.
        can_record: True to record a larger step.
        on_compile: called once before a part of the graph is compiled.

    Raises:
        GraphTooLargeError: the graph has more operations, and the step can't be recorded.
    """

    def __init__(
        self,
        step: GradientStep,
        phases: Sequence[Phase],
        assemble: Assemble,
        inputs: Tree,
        all_finite: Tensor,
        folder: Path,
        limit: int,
        can_record: bool = False,
        on_compile: Callable[[], None] = lambda: None,
    ) -> None:
        """Trace the step, and compile its graph or load it from the cache, unless it must be recorded."""
        self._step, self._phases, self._assemble = step, phases, assemble
        self._groups = {name: step.groups[name] for phase in phases for name in phase.groups}
        self._all_finite, self._folder, self._on_compile = all_finite, folder, on_compile
        self.metrics: list[str] = []  # names in the report: norms of the gradients, then metrics of the losses
        self.may_stop = False  # the report ends with a number that isn't 0 if the step was stopped
        self.is_new = False  # true if a part of the graph was not in the cache
        self._writes: list[list[str]] = []  # keys that each loss writes back
        # Store no reference to `inputs`: they may be in Ray's object store, which could then never free them.
        tree = {**self._state(), **inputs}
        function = self._function(unflattened(tree, itertools.repeat(torch.empty(0))))
        graph = self._trace(function, flattened(tree)) if limit else None
        operations = 0 if graph is None else sum(node.op == "call_function" for node in graph.graph.nodes)
        self.is_recorded = graph is None or operations > limit
        if self.is_recorded and not can_record:
            raise GraphTooLargeError(
                f"they have {operations} operations, more than trainer.compile_limit={limit}; training is right but "
                "slower, and a higher limit compiles them in several minutes"
            )
        self._library = function if graph is None or self.is_recorded else open_graph(graph, self._open)
        # A graph with sums over ranks isn't captured, because each sum waits for the other ranks.
        self._is_captured = all_finite.device.type == "cuda" and (graph is None or not has_sums(graph))
        self.rebind()

    def _open(self, graph: GraphModule, examples: list[Tensor]) -> Library:
        """Compile a part of the graph or load it from the cache."""
        open_part = open_library if self._all_finite.device.type == "cpu" else open_kernels
        library, is_new = open_part(graph, examples, self._folder, self._announce)
        self.is_new |= is_new
        return library

    def _announce(self) -> None:
        """Call `on_compile` before the first part is compiled."""
        if not self.is_new:
            self._on_compile()

    def rebind(self) -> None:
        """Bind the step to the optimizers' current state tensors; `load_state_dict` replaces them by new ones."""
        state, library, device = flattened(self._state()), self._library, self._all_finite.device
        self._run: Library = (
            CudaGraphLibrary(library, state)
            if self._is_captured
            else lambda inputs: library(state + moved(inputs, device))
        )

    def capture(self, inputs: Sequence[Tensor]) -> None:
        """Capture the step as a CUDA graph, if it becomes one, for inputs on these devices; change nothing."""
        if isinstance(self._run, CudaGraphLibrary):
            self._run.capture(inputs)

    def _state(self) -> dict[str, Any]:
        """Return the tensors that the step changes in place."""
        flat = self._step.flat
        states = {
            name: [
                {
                    key: group.optimizer.state[flat.vectors[number]][key]
                    for key in rule_of(group.optimizer).names(settings)
                }
                for number, (settings, _) in zip(group.vectors, group.settings(), strict=True)
            ]
            for name, group in self._groups.items()
        }
        vectors, buffers = [vector.detach() for vector in flat.vectors], dict(self._step.agent.named_buffers())
        return {"all_finite": self._all_finite, "vectors": vectors, "buffers": buffers, "states": states}

    def take(self, inputs: list[Tensor]) -> tuple[Tensor, list[Loss]]:
        """Take the step.

        Returns:
            Report `[metrics]` of the metrics named in `metrics`, with one more element if `may_stop`; and the losses
            that have values to write back.
        """
        report, *written = self._run(inputs)
        return report, self._losses(written)

    def _losses(self, written: Sequence[Tensor]) -> list[Loss]:
        """Return losses with the values to write back, without a value to minimize."""
        values = iter(written)
        losses = []
        for names in self._writes:
            write = {name: next(values) for name in names if name != PRIORITY}
            priority = next(values) if PRIORITY in names else None
            losses.append(Loss(torch.empty(()), write=write, priority=priority))
        return losses

    def _function(self, like: Tree) -> Library:
        """Return the step as a function of its state and inputs.

        Args:
            like: tree of the state and inputs, whose tensors don't matter.
        """

        def function(tensors: list[Tensor]) -> list[Tensor]:
            """Take the step on tensors in the order of `like`."""
            rebuilt = unflattened(like, iter(tensors))
            vectors, buffers = rebuilt["vectors"], rebuilt["buffers"]
            scalars, factors = self._unpack_numbers(rebuilt["numbers"])
            stepper = RuleStepper(rebuilt["all_finite"], vectors, buffers, rebuilt["states"], self._groups, factors)
            with torch.no_grad():
                batch = self._assemble(rebuilt["batch"])
                return self._outputs(
                    self._step.take(self._phases, vectors, buffers, batch, rebuilt["noise"], scalars, stepper)
                )

        return function

    def _trace(self, function: Library, inputs: list[Tensor]) -> GraphModule:
        """Return the graph of the step; only shapes, dtypes and devices of the inputs matter."""

        def of_tensors(*tensors: Tensor) -> list[Tensor]:
            """Take the step on tensors, which the tracer passes one by one."""
            return list(function(list(tensors)))

        with torch.no_grad():
            return make_fx(of_tensors, DECOMPOSITIONS, tracing_mode="fake")(*inputs)

    def _unpack_numbers(self, numbers: Tensor) -> tuple[list[Tensors], list[list[Sequence[Tensor]]]]:
        """Return for each phase its scalars by name, and for each of its groups the factors for each vector."""
        values, scalars, factors = iter(numbers.unbind()), list[Tensors](), list[list[Sequence[Tensor]]]()
        for phase in self._phases:
            scalars.append({name: next(values) for name in phase.scalars})
            for group in (self._groups[name] for name in phase.groups):
                rule = rule_of(group.optimizer)
                sizes = [len(rule.factors(rate, 1.0, settings)) for settings, rate in group.settings()]
                factors.append([[next(values) for _ in range(size)] for size in sizes])
        return scalars, factors

    def _outputs(self, outcome: Outcome) -> list[Tensor]:
        """Return the graph's outputs: the report, then the values to write back. Store their names."""
        self.metrics = [*norm_names(self._phases), *outcome.metrics]
        self.may_stop = outcome.stop is not None
        scalars = [*outcome.norms, *outcome.metrics.values(), *([] if outcome.stop is None else [outcome.stop])]
        outputs = [torch.stack([scalar.detach().float().reshape(()) for scalar in scalars])]
        self._writes = []
        for loss in outcome.losses:
            self._writes.append([*loss.write, *([PRIORITY] if loss.priority is not None else [])])
            outputs += loss.write.values()
            outputs += [loss.priority] if loss.priority is not None else []
        return outputs


def addmm(added: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Compute β · added + α · left @ right as a product and a sum.

    The single operation first copies `added` into the result, which is another pass over memory. Inductor fuses the
    separate sum with the next operation, such as an activation.
    """
    product = torch.mm(left, right)
    return (product if alpha == 1 else alpha * product) + (added if beta == 1 else beta * added)


DECOMPOSITIONS = {torch.ops.aten.addmm.default: addmm}
PRIORITY = " priority"  # can't be a stored key
