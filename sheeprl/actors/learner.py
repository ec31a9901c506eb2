"""Learns: one rank of the trainer group. Owns backward, gradient reduction, clipping and optimizer steps."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from lightning.fabric import Fabric
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
from sheeprl.learning.compile.cache import CompiledSteps, CompileError, RefusedError
from sheeprl.learning.flat_parameters import FlatParameters
from sheeprl.learning.metrics import Table, means_of
from sheeprl.learning.step import GradientStep, Group, OptimizerStepper
from sheeprl.models import weights as weights_of
from sheeprl.utils import seeding
from sheeprl.utils.errors import one_line
from sheeprl.utils.tensors import Tree, moved

REHEARSED = 2  # gradient steps: with the first one optimizers make their state, without which nothing is compiled


class NonFiniteError(RuntimeError):
    """A loss or its gradient is not a finite number. The step that would have spread it was not taken."""


class FabricRanks:
    """The ranks of a Fabric, whose process group is Torch's default one."""

    def __init__(self, fabric: Fabric) -> None:
        self.world = fabric.world_size

    def sum(self, value: Tensor) -> Tensor:
        """The sum over the ranks."""
        return value if self.world == 1 else sum_over_ranks(value.detach())


class Learner(LearnerInterface):
    """Agent and optimizers of one rank.

    Args:
        config: the run's configuration, resolved.
        spaces: what the agent sees and does.
        fabric: launched; its rank and world size are those of the group.
        has_shard: whether every rank samples from a buffer of its own (coupled mode) rather than all from one.
    """

    def __init__(self, config: Config, spaces: Spaces, fabric: Fabric, has_shard: bool = False) -> None:
        self.config = config
        self.fabric = fabric
        self.rank, self.world = fabric.global_rank, fabric.world_size
        self.has_shard = has_shard
        self.threads = config.trainer.threads or 1
        torch.set_num_threads(self.threads)
        seed = config.run.seed
        self.algorithm = build_algorithm(config.algo, spaces)
        torch.manual_seed(seeding.seeds(seed, seeding.Role.AGENT)[0])
        self.agent = fabric.to_device(self.algorithm.build_agent())
        self.gradient_steps = 0
        # Minibatches and noise are drawn for the whole group, the same on every rank, and each rank takes its part:
        # so a result doesn't depend on the number of ranks.
        self.group_rng = torch.Generator().manual_seed(seeding.seeds(seed, seeding.Role.LEARNER)[0])
        self.rank_rng = self._own_generator()
        self.step = self._lay_out()
        self.batches = self._make_batches()
        self.compiled = CompiledSteps(self.step, self.batches.assemble) if config.trainer.compile else None
        self._failure: NonFiniteError | None = None
        self._tables: list[Table] = []  # of the update's metrics, on the CPU
        self._notes: list[str] = []  # for the run's log

    def _own_generator(self) -> np.random.Generator:
        """What this rank draws from in the coming update: made anew for each, so that no rank has a state to keep."""
        key = seeding.sequence(self.config.run.seed, seeding.Role.RANK, self.rank, self.gradient_steps)
        return np.random.Generator(np.random.PCG64(key))

    def _lay_out(self) -> GradientStep:
        """The parameters in few vectors, and the optimizers over these."""
        specs = self.algorithm.optimizers()
        flat = FlatParameters(self.agent, {name: spec.modules for name, spec in specs.items()})
        groups = {}
        for name, spec in specs.items():
            optimizer = spec.build([flat.vectors[number] for number in flat.of_group(name)])
            rates = [float(group["lr"]) for group in optimizer.param_groups]
            groups[name] = Group(flat.stepped_by(optimizer), optimizer, rates, spec.max_grad_norm)
            if sorted(groups[name].vectors) != sorted(flat.of_group(name)):
                raise ValueError(f"the optimizer {name!r} must have all parameters that it is built with, once each")
        return GradientStep(self.agent, flat, groups, FabricRanks(self.fabric), self.fabric.autocast)

    def _make_batches(self) -> Batches:
        data = self.algorithm.data()
        share = Share(self.rank, self.step.ranks, self.has_shard, self.fabric.device)
        if not isinstance(data, OnPolicy):
            return Samples(share)
        return Minibatches(self.algorithm, data, self.agent, share, self._permutation, self.fabric.autocast)

    def _permutation(self, length: int) -> Tensor:
        if self.has_shard:
            return torch.from_numpy(self.rank_rng.permutation(length))
        return torch.randperm(length, generator=self.group_rng)

    # ---------------------------------------------------------------------------------------- learning

    def update(self, steps: int, progress: float, order: int | None, *blocks: Rows) -> tuple[UpdateInfo, Writes]:
        """Take `steps` gradient steps.

        Args:
            steps: gradient steps.
            progress: part of the run that has been played, from 0 to 1, for schedules.
            order: None where one block is what the buffer's sampler gave: a rollout, or `steps` batches. Else the
                seed of the order in which the samples of all blocks make `steps` batches.
            blocks: what the shards of the replay sent.

        Returns:
            Means of the metrics over the steps, and what losses gave to write back into sampled rows.

        Raises:
            NonFiniteError: a loss or gradient is not finite, on any rank.
        """
        started = time.perf_counter()
        if self._failure is not None:
            raise self._failure  # calls that were under way when it failed must not learn on
        torch.set_num_threads(self.threads)
        self.rank_rng = self._own_generator()
        self._seed(int(self.rank_rng.integers(2**31)))
        writes: Writes = []
        self._tables = []
        compiled_for = self.compiled.seconds if self.compiled else 0.0
        try:
            try:
                for tensors in self.batches.read(steps, order, blocks):
                    self._gradient_step(tensors, progress, writes)
            finally:  # whatever ended them: what was taken counts
                self._settle()
        except NonFiniteError as error:
            self._failure = error
            raise
        means = self._means()
        notes, self._notes = tuple(self._notes), []
        compiling = self.compiled.seconds - compiled_for if self.compiled else 0.0
        seconds = time.perf_counter() - started
        return UpdateInfo(self.gradient_steps, means, seconds, started, notes, compiling), writes

    def _seed(self, seed: int) -> None:
        """For modules that draw by themselves. `torch.manual_seed` takes long: it asks for every kind of device."""
        torch.default_generator.manual_seed(seed)
        if self.fabric.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _gradient_step(self, tensors: Tree, progress: float, writes: Writes) -> None:
        """One pass over the phases."""
        phases = self.algorithm.phases(Step(self.gradient_steps, progress))
        samples = self.batches.samples(tensors)
        noise = [self._noise(phase, samples) for phase in phases]
        losses = self._compiled_step(phases, tensors, noise)
        if losses is None:
            losses = self._eager_step(phases, tensors, noise)
        writes += [_write(self.batches.index(tensors), loss) for loss in losses]
        self.gradient_steps += 1

    def _compiled_step(self, phases: Sequence[Phase], tensors: Tree, noise: list[Tensors]) -> list[Loss] | None:
        """Take the step as one graph; None if it has to be taken one operation after the other."""
        if self.compiled is None or not self.compiled.is_ready(phases):
            return None
        try:
            losses = self.compiled.take(phases, tensors, noise)
        except CompileError as error:
            self._settle()
            self.compiled = None
            self._notes.append(f"gradient steps aren't compiled: {error}")
            return None
        self._notes += self.compiled.notes
        self.compiled.notes = []
        return losses

    def _eager_step(self, phases: Sequence[Phase], tensors: Any, noise: Any) -> list[Loss]:
        """Take it one operation after the other; what has to be written back."""
        self._settle()
        step = self.step
        scalars = [{name: torch.tensor(value) for name, value in phase.scalars.items()} for phase in phases]
        tensors, noise, scalars = moved([tensors, noise, scalars], self.fabric.device)
        buffers = dict(self.agent.named_buffers())
        stepper = OptimizerStepper(step.flat.vectors, buffers, step.groups, self._refuse)
        outcome = step.take(phases, step.flat.vectors, buffers, self.batches.assemble(tensors), noise, scalars, stepper)
        self._tables.append(Table.of(outcome.metrics))
        return outcome.losses

    def _settle(self) -> None:
        """Find out whether the compiled steps were taken: to ask after each would have the device wait for this."""
        if self.compiled is None:
            return
        try:
            self._tables += self.compiled.settle()
        except RefusedError as refused:
            self.gradient_steps -= refused.steps
            self._refuse(refused.phase, refused.metrics)

    def _refuse(self, phase: Phase, metrics: Tensors) -> NoReturn:
        """Say which loss is not finite, and when."""
        bad = [f"{name} is {value.item()}" for name, value in metrics.items() if not torch.isfinite(value).all()]
        what = " and ".join(bad) or f"the gradient of the loss of {phase.optimizer!r} is not finite"
        raise NonFiniteError(f"{what} at gradient step {self.gradient_steps}")

    def _noise(self, phase: Phase, samples: int) -> Tensors:
        """What of the group's noise is this rank's, on the CPU."""
        if phase.noise is None:
            return {}
        drawn = phase.noise(torch.Size([samples * self.world]), self.group_rng)
        return {name: values[self.rank :: self.world] for name, values in drawn.items()}

    def _means(self) -> dict[str, float]:
        """Mean of every metric over the steps and the ranks."""
        values = moved([table.values for table in self._tables], torch.device("cpu"))
        means = means_of([Table(table.names, here) for table, here in zip(self._tables, values, strict=True)])
        if self.world == 1 or not means:
            return means
        together = torch.tensor(list(means.values()), device=self.fabric.device)
        return dict(zip(means, (self.step.ranks.sum(together) / self.world).tolist(), strict=True))

    # ------------------------------------------------------------------------------------------- state

    def weights(self, copy: bool = True) -> tuple[int, Rows]:
        """Gradient steps taken, and the policy's weights after them.

        Args:
            copy: whether they must outlast the next update.
        """
        return self.gradient_steps, weights_of.to_arrays(self.agent.get_submodule("policy"), copy)

    def warm_up(self) -> None:
        """Compile the gradient step on made-up data, and be as before.

        Meanwhile players bring the first real data, which is then learned from at once.
        """
        if self.compiled is None:
            return
        before = self._saved()
        try:
            order, block = self._dummy_data()
            info, _ = self.update(REHEARSED, 0.0, order, block)
            self._notes = [*info.notes]  # for the first real update to tell
        except Exception as error:  # of data that was made up; a real update that fails will say so itself
            self._notes.append(f"the gradient step couldn't be compiled before there was data: {one_line(error)}")
        self.restore(before)

    def _dummy_data(self) -> tuple[int | None, Rows]:
        """Data on all ranks or on none: who went on without the others would wait for them for ever."""
        failure: Exception | None = None
        try:
            given = dummy_batches(self.config, self.algorithm, REHEARSED)
        except Exception as error:
            failure = error
        failures = self.step.ranks.sum(torch.tensor(float(failure is not None), device=self.fabric.device))
        if failure is not None:
            raise failure
        if failures > 0:
            raise RuntimeError("another rank has no data")
        return given

    def snapshot(self) -> tuple[int, Array | None]:
        """Everything that has been learned, as a file of `torch.save` in memory.

        Returns:
            How many gradient steps have been taken, and, from rank 0, `[bytes]` uint8.

        Raises:
            NonFiniteError: the agent is beyond use, and no checkpoint is better than one of it.
        """
        if bad := [name for name, values in self.agent.state_dict().items() if not torch.isfinite(values).all()]:
            raise NonFiniteError(f"the agent's {bad[0]} is not finite any more")
        return self.gradient_steps, None if self.rank else self._saved()  # ranks differ in nothing

    def _saved(self) -> Array:
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
        """Take over a snapshot; how many gradient steps it has taken."""
        file = io.BytesIO(data.tobytes())
        state = torch.load(file, map_location="cpu", weights_only=True)
        self.agent.load_state_dict(state["agent"])
        for name, group in self.step.groups.items():
            group.load_state(state["optimizers"][name])
        if self.compiled is not None:
            self.compiled.rebind()
        self.gradient_steps = int(state["gradient_steps"])
        self.group_rng.set_state(state["generator"])
        self._failure = None
        return self.gradient_steps


def _write(index: Tensor, loss: Loss) -> Write:
    """What a loss gave for the rows of its batch, as it travels."""
    given = [index, *loss.write.values(), *([] if loss.priority is None else [loss.priority.float()])]
    rows, *values = moved(given, torch.device("cpu"))
    priority = None if loss.priority is None else values[-1].numpy()
    written = TensorDict(dict(zip(loss.write, values, strict=False)), batch_size=index.shape)
    return Write(rows.numpy(), flatten(written), priority)
