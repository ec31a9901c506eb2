"""One rank of the trainer group: backward pass, gradient reduction, clipping and optimizer steps."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from lightning_fabric import Fabric
from tensordict import TensorDict
from torch import Tensor

from sheeprl.actors.interfaces import LearnerInterface
from sheeprl.actors.messages import UpdateInfo, Write, Writes
from sheeprl.actors.warmup import dummy_batches
from sheeprl.algos.args import OnPolicy
from sheeprl.algos.base import Loss, Phase, Spaces, Step, Tensors
from sheeprl.algos.build import build_algorithm
from sheeprl.buffer.memmap import Array
from sheeprl.buffer.storage import Rows
from sheeprl.buffer.tensordicts import flatten
from sheeprl.config.schema import Config
from sheeprl.learning.batches import Batches, Minibatches, Samples, Share
from sheeprl.learning.compile.allreduce import sum_over_ranks
from sheeprl.learning.compile.cache import CompiledSteps, CompileError, NonFiniteGradientError
from sheeprl.learning.compile.hot import HotFunctions
from sheeprl.learning.flat_parameters import FlatParameters
from sheeprl.learning.forbidden_modules import check_dtypes, check_modules
from sheeprl.learning.metrics import Table, means_of, norm_names
from sheeprl.learning.optimizers import check_elementwise
from sheeprl.learning.step import GradientStep, Group, OptimizerStepper
from sheeprl.models import weights as weights_of
from sheeprl.models.hot import hot_functions
from sheeprl.utils import seeding
from sheeprl.utils.denormals import flushed_denormals, start_flushing_threads
from sheeprl.utils.errors import AlgorithmError, one_line
from sheeprl.utils.profiling import make_profiler, profiled
from sheeprl.utils.tensors import Tree, moved

LOWER_RATE = "lower the learning rates, or scale the rewards"
LONGEST_PERIOD = 64  # gradient steps in which the warm-up looks for kinds of steps, such as those of a delayed actor


class NonFiniteError(RuntimeError):
    """Raised when a loss or its gradient is not finite. The gradient step is not taken."""


class FabricRanks:
    """Ranks of a Fabric, which uses Torch's default process group."""

    def __init__(self, fabric: Fabric) -> None:
        """Store the number of ranks and of this rank."""
        self.rank, self.world = fabric.global_rank, fabric.world_size

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum over the ranks."""
        return value if self.world == 1 else sum_over_ranks(value.detach())


class Learner(LearnerInterface):
    """Agent and optimizers of one rank.

    Args:
        config: configuration of the run, resolved.
        spaces: observation and action space of the agent.
        fabric: launched Fabric; its rank and world size are those of the group.
        has_shard: True if each rank samples from its own buffer (coupled mode), False if all ranks share one.
    """

    def __init__(self, config: Config, spaces: Spaces, fabric: Fabric, has_shard: bool = False) -> None:
        """Build the agent, the optimizers and the generators."""
        self.config = config
        self.fabric = fabric
        self.rank, self.world = fabric.global_rank, fabric.world_size
        self.has_shard = has_shard
        self.threads = config.trainer.threads or 1
        torch.set_num_threads(self.threads)
        start_flushing_threads(self.threads)
        seed = config.run.seed
        self.algorithm = build_algorithm(config.algo, spaces)
        torch.manual_seed(seeding.seeds(seed, seeding.Role.AGENT)[0])
        agent = self.algorithm.build_agent()
        check_modules(agent)
        check_dtypes(agent, fabric.device)
        self.agent = fabric.to_device(agent)
        self.gradient_steps = 0
        # Every rank draws the minibatches and the noise of the whole group and takes its part. So the results don't
        # depend on the number of ranks.
        self.group_rng = torch.Generator().manual_seed(seeding.seeds(seed, seeding.Role.LEARNER)[0])
        self.rank_rng = self._make_rank_rng()
        self.step = self._make_step()
        self.batches = self._make_batches()
        trainer = config.trainer
        self.compiled = (
            CompiledSteps(self.step, self.batches.assemble, trainer.compile_limit) if trainer.compile else None
        )
        self.hot = HotFunctions(self.step.ranks) if trainer.compile and fabric.device.type == "cpu" else None
        self.profiler = make_profiler(config.run.dir, config.log.profiled_rounds, f"trainer {self.rank}")
        self._failure: NonFiniteError | None = None
        self._checked: set[str | tuple[str, ...]] = set()  # groups that phases have named
        self._tables: list[Table] = []  # metrics of the current update, on the CPU
        self._notes: list[str] = []  # messages for the log of the run
        self._size = 0  # bytes of networks, gradients and optimizers; 0 before the optimizers have a state

    def _make_rank_rng(self) -> np.random.Generator:
        """Return this rank's generator for the next update. Each update has a new one, so snapshots don't store it."""
        key = seeding.sequence(self.config.run.seed, seeding.Role.RANK, self.rank, self.gradient_steps)
        return np.random.Generator(np.random.PCG64(key))

    def _make_step(self) -> GradientStep:
        """Flatten the parameters into a few vectors and build the optimizers over them.

        Raises:
            AlgorithmError: an optimizer names a submodule that the agent doesn't have.
            ValueError: an optimizer doesn't contain each of its parameters once, or isn't elementwise.
        """
        specs = self.algorithm.optimizers()
        modules = dict(self.agent.named_modules())
        for group, module in ((group, module) for group, spec in specs.items() for module in spec.modules):
            if module not in modules:
                known = ", ".join(name for name in modules if name and "." not in name)
                raise AlgorithmError(
                    f"{type(self.algorithm).__name__}.optimizers()[{group!r}] names the submodule {module!r}, but the "
                    f"module of build_agent() has {known}"
                )
        flat = FlatParameters(self.agent, {name: spec.modules for name, spec in specs.items()})
        groups = {}
        for name, spec in specs.items():
            optimizer = spec.build([flat.vectors[number] for number in flat.of_group(name)])
            check_elementwise(name, optimizer)
            rates = [float(group["lr"]) for group in optimizer.param_groups]
            stepped, limits = flat.stepped_by(optimizer), (spec.max_grad_norm, spec.adaptive_clip)
            groups[name] = Group(stepped, optimizer, rates, *limits)
            if sorted(groups[name].vectors) != sorted(flat.of_group(name)):
                raise ValueError(f"the optimizer {name!r} must contain each parameter that it is built with once")
        ranks, may_stop = FabricRanks(self.fabric), not self.algorithm.data().is_off_policy
        return GradientStep(self.agent, flat, groups, ranks, self.fabric.autocast, may_stop)

    def _make_batches(self) -> Batches:
        """Return the reader of the algorithm's batches."""
        data = self.algorithm.data()
        share = Share(self.rank, self.step.ranks, self.has_shard, self.fabric.device)
        if not isinstance(data, OnPolicy):
            return Samples(share)
        return Minibatches(self.algorithm, data, self.agent, share, self._permutation, self.fabric.autocast)

    def _permutation(self, length: int) -> Tensor:
        """Return a random permutation `[length]`, which is the same on all ranks that share a buffer."""
        if self.has_shard:
            return torch.from_numpy(self.rank_rng.permutation(length))
        return torch.randperm(length, generator=self.group_rng)

    # ---------------------------------------------------------------------------------------- learning

    @profiled
    def update(self, steps: int, progress: float, order: int | None, *blocks: Rows) -> tuple[UpdateInfo, Writes]:
        """Take `steps` gradient steps, or fewer if a loss stops the round.

        Args:
            steps: number of gradient steps.
            progress: progress of the run for schedules, from 0 to 1.
            order: seed of the order in which the samples of all blocks form `steps` batches; None if the only block is
                a rollout or contains `steps` batches.
            blocks: samples of the replay shards.

        Returns:
            Statistics of the update, and the values to write back into the sampled rows.

        Raises:
            NonFiniteError: a loss or gradient is not finite on any rank.
        """
        started = time.perf_counter()
        if self._failure is not None:
            raise self._failure  # updates requested before the failure was known must not be taken
        torch.set_num_threads(self.threads)
        self.rank_rng = self._make_rank_rng()
        self._seed(int(self.rank_rng.integers(2**31)))
        writes: Writes = []
        self._tables = []
        compiled_for = self._compile_seconds()
        try:
            try:
                with flushed_denormals():
                    for tensors in self.batches.read(steps, order, blocks):
                        if self._gradient_step(tensors, progress, writes):
                            break
            finally:  # steps taken before an error count, too
                self._settle()
            self._set_buffers(self.batches.buffers())
        except NonFiniteError as error:
            self._failure = error
            raise
        means = self._means()
        notes, self._notes = tuple(self._notes), []
        compiling = max(0.0, self._compile_seconds() - compiled_for)
        seconds = time.perf_counter() - started
        self._size = self._size or self._network_bytes()
        return UpdateInfo(self.gradient_steps, means, seconds, started, notes, compiling, self._size), writes

    def _compile_seconds(self) -> float:
        """Return the total time spent on compiling and loading."""
        return sum(each.seconds for each in (self.compiled, self.hot) if each is not None)

    def _network_bytes(self) -> int:
        """Return the bytes of the agent, of its gradients and of the state of its optimizers."""
        gradients = [values for values in self.agent.parameters() if values.requires_grad]
        states = [state for group in self.step.groups.values() for state in group.optimizer.state.values()]
        moments = [values for state in states for values in state.values() if isinstance(values, Tensor)]
        return sum(values.nbytes for values in (*self.agent.state_dict().values(), *gradients, *moments))

    @torch.no_grad()
    def _set_buffers(self, values: Tensors) -> None:
        """Set buffers of the agent to the mean of the given values over the ranks.

        Raises:
            ValueError: the agent has no such buffer, or its state doesn't contain it, so checkpoints would miss it.
        """
        if not values:
            return
        buffers, saved = dict(self.agent.named_buffers()), self.agent.state_dict()
        for name, value in values.items():
            if name not in buffers or name not in saved:
                raise ValueError(f"prepare_rollout() returned the buffer {name!r}; register it with persistent=True")
            if self.world > 1:  # counts are integers: exact up to 2 ** 53
                value = self.step.ranks.sum(value if value.is_floating_point() else value.double()) / self.world
            buffers[name].copy_(value)

    def _seed(self, seed: int) -> None:
        """Seed Torch's global generators. `torch.manual_seed` is slow because it checks every kind of device."""
        torch.default_generator.manual_seed(seed)
        if self.fabric.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _gradient_step(self, tensors: Tree, progress: float, writes: Writes) -> bool:
        """Take one gradient step: one pass over the phases. Return True if a loss stopped the round before the step."""
        phases = self.algorithm.phases(Step(self.gradient_steps, progress))
        for phase in phases:
            if phase.optimizer not in self._checked:
                self._check_groups(phase)
        samples = self.batches.samples(tensors)
        noise = [self._noise(phase, samples) for phase in phases]
        taken = self._compiled_step(phases, tensors, noise)
        if taken is None:
            taken = self._eager_step(phases, tensors, noise)
        losses, was_stopped = taken
        if was_stopped:
            return True
        writes += [_write(self.batches.index(tensors), loss) for loss in losses]
        self.gradient_steps += 1
        return False

    def _check_groups(self, phase: Phase) -> None:
        """Check the parameter groups of a phase.

        Raises:
            ValueError: the phase names an unknown group, no group, or a group twice.
        """
        known = self.step.groups
        for name in phase.groups:
            if name not in known:
                raise ValueError(f"phases() names the group {name!r}, but optimizers() has {', '.join(known)}")
        if len(set(phase.groups)) != len(phase.groups) or not phase.groups:
            raise ValueError(f"phases() names the groups {phase.groups}; name at least one, and each only once")
        self._checked.add(phase.optimizer)

    def _compiled_step(
        self, phases: Sequence[Phase], tensors: Tree, noise: list[Tensors]
    ) -> tuple[list[Loss], bool] | None:
        """Take the step with the compiled graph, as `_eager_step` does; return None if it must run eagerly."""
        if self.compiled is None or not self.compiled.is_ready(phases):
            return None
        try:
            taken = self.compiled.take(phases, tensors, noise)
        except CompileError as error:
            self._settle()
            some = "some " if self.compiled.any_compiled else ""  # the others stay compiled
            self.compiled = self.compiled if some else None
            self._notes.append(f"{some}gradient steps aren't compiled: {error}")
            return None
        self._notes += self.compiled.notes
        self.compiled.notes = []
        return taken

    def _eager_step(self, phases: Sequence[Phase], tensors: Any, noise: Any) -> tuple[list[Loss], bool]:
        """Take the step eagerly; return the losses to write back, and True if `Loss.stop` left all unchanged."""
        self._settle()
        step = self.step
        scalars = [{name: torch.tensor(value) for name, value in phase.scalars.items()} for phase in phases]
        tensors, noise, scalars = moved([tensors, noise, scalars], self.fabric.device)
        buffers = dict(self.agent.named_buffers())
        stepper = OptimizerStepper(step.flat.vectors, buffers, step.groups, self._raise_non_finite)
        batch = self.batches.assemble(tensors)
        with hot_functions(self.hot):
            outcome = step.take(phases, step.flat.vectors, buffers, batch, noise, scalars, stepper)
        if self.hot is not None:
            self._notes += self.hot.notes
            self.hot.notes = []
        names = [*norm_names(phases), *outcome.metrics]
        self._tables.append(Table.of(names, [*outcome.norms, *outcome.metrics.values()]))
        return outcome.losses, outcome.stop is not None and bool(outcome.stop)

    def _settle(self) -> None:
        """Collect the results of the compiled steps. A check after each step would stall the device.

        Raises:
            NonFiniteError: a compiled step was not taken, because a loss or gradient is not finite.
        """
        if self.compiled is None:
            return
        try:
            self._tables += self.compiled.settle()
        except NonFiniteGradientError as error:
            self.gradient_steps -= error.steps
            self._raise_non_finite(error.phase, error.metrics)

    def _raise_non_finite(self, phase: Phase, metrics: Tensors) -> NoReturn:
        """Raise an error that names the metrics that aren't finite and the gradient step."""
        bad = [f"{name} is {value.item()}" for name, value in metrics.items() if not torch.isfinite(value).all()]
        groups = " and ".join(map(repr, phase.groups))
        what = " and ".join(bad) or f"the gradient of the loss of {groups} is not finite"
        raise NonFiniteError(f"{what} at gradient step {self.gradient_steps}; {LOWER_RATE}")

    def _noise(self, phase: Phase, samples: int) -> Tensors:
        """Draw the noise of the group; return this rank's part and all that is shared, on the CPU.

        Raises:
            ValueError: both functions of the phase return a tensor of the same name.
        """
        drawn = phase.noise(torch.Size([samples * self.world]), self.group_rng) if phase.noise else {}
        shared = phase.shared_noise(self.group_rng) if phase.shared_noise else {}
        if twice := drawn.keys() & shared.keys():
            raise ValueError(
                f"Phase.noise and Phase.shared_noise of the group {phase.optimizer!r} both return {min(twice)!r}; use "
                "another name in one of them"
            )
        return {name: values[self.rank :: self.world] for name, values in drawn.items()} | shared

    def _means(self) -> dict[str, float]:
        """Return the mean of every metric over the steps and the ranks."""
        values = moved([table.values for table in self._tables], torch.device("cpu"))
        means = means_of([Table(table.names, here) for table, here in zip(self._tables, values, strict=True)])
        if self.world == 1 or not means:
            return means
        together = torch.tensor(list(means.values()), device=self.fabric.device)
        return dict(zip(means, (self.step.ranks.sum(together) / self.world).tolist(), strict=True))

    # ------------------------------------------------------------------------------------------- state

    def weights(self, copy: bool = True) -> tuple[int, Rows]:
        """Return the number of gradient steps and the policy weights.

        Args:
            copy: True if the next update must not change the returned arrays.

        Raises:
            MovedParameterError: the agent's parameters aren't those that training changes.
        """
        self.step.flat.check()
        return self.gradient_steps, weights_of.to_arrays(self.agent.get_submodule("policy"), copy)

    def warm_up(self) -> None:
        """Compile the gradient step on dummy data and restore the state from before.

        It runs while players collect the first data, so the first update doesn't wait for compilation.
        """
        if self.compiled is None:
            return
        before = self._saved()
        try:
            steps = self._warm_up_steps()
            order, block = self._dummy_data(steps)
            info, _ = self.update(steps, 0.0, order, block)
            self._notes = [*info.notes]  # the first real update returns them
        except Exception as error:  # dummy data may be unsuitable; a real update reports its own failure
            self._notes.append(
                f"the warm-up on dummy data failed; the first update compiles gradient steps: {one_line(error)}"
            )
        self.restore(before)

    def _warm_up_steps(self) -> int:
        """Return the number of gradient steps that include a compiled one of every kind.

        The first step of each kind is eager: it creates the optimizer state, which compilation requires.
        """
        kinds: set[tuple[Any, ...]] = set()
        period = 1
        for step in range(LONGEST_PERIOD):
            phases = self.algorithm.phases(Step(step, 0.0))
            kind = tuple((phase.groups, phase.loss, tuple(phase.target_updates)) for phase in phases)
            period = period if kind in kinds else step + 1
            kinds.add(kind)
        return 2 * period

    def _dummy_data(self, steps: int) -> tuple[int | None, Rows]:
        """Return dummy data for some gradient steps.

        If one rank has none, all ranks raise, because a rank that continued alone would hang.
        """
        failure: Exception | None = None
        try:
            batches = dummy_batches(self.config, self.algorithm, steps)
        except Exception as error:
            failure = error
        failures = self.step.ranks.sum(torch.tensor(float(failure is not None), device=self.fabric.device))
        if failure is not None:
            raise failure
        if failures > 0:
            raise RuntimeError("another rank could not make dummy data")
        return batches

    def snapshot(self) -> tuple[int, Array | None]:
        """Return the state of agent, optimizers and generator, as the bytes of a `torch.save` file.

        Returns:
            Number of gradient steps taken, and `[bytes]` uint8 from rank 0 or None from other ranks.

        Raises:
            NonFiniteError: a parameter is not finite; a checkpoint of it would be useless.
        """
        if bad := [name for name, values in self.agent.state_dict().items() if not torch.isfinite(values).all()]:
            raise NonFiniteError(f"the agent's {bad[0]} is not finite")
        return self.gradient_steps, None if self.rank else self._saved()  # all ranks have the same state

    def _saved(self) -> Array:
        """Return the learner's state as `[bytes]` uint8."""
        state = {
            "agent": self.agent.state_dict(),
            "optimizers": {name: group.optimizer.state_dict() for name, group in self.step.groups.items()},
            "gradient_steps": self.gradient_steps,
            "generator": self.group_rng.get_state(),
        }
        file = io.BytesIO()
        torch.save(state, file)
        return np.frombuffer(file.getbuffer(), np.uint8)

    def restore(self, data: Array) -> int:
        """Restore a snapshot; return its number of gradient steps."""
        file = io.BytesIO(data.tobytes())
        state = torch.load(file, map_location="cpu", weights_only=True)
        weights_of.load_tensors(self.agent, state["agent"])
        for name, group in self.step.groups.items():
            group.load_state(state["optimizers"][name])
        if self.compiled is not None:
            self.compiled.rebind()
        self.gradient_steps = int(state["gradient_steps"])
        self.group_rng.set_state(state["generator"])
        self._failure = None
        return self.gradient_steps


def _write(index: Tensor, loss: Loss) -> Write:
    """Return the values and priorities that a loss writes back, as NumPy arrays."""
    index = index[-next(iter(loss.write.values()), index).shape[0] :]  # perhaps the last rows of sequences only
    parts = [index, *loss.write.values(), *([] if loss.priority is None else [loss.priority.float()])]
    rows, *values = moved(parts, torch.device("cpu"))
    priority = None if loss.priority is None else values[-1].numpy()
    written = TensorDict(dict(zip(loss.write, values, strict=False)), batch_size=index.shape)
    return Write(rows.numpy(), flatten(written), priority)
