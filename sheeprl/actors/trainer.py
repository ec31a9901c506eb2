"""Learns: one rank of the trainer group. Owns backward, gradient reduction, clipping and optimizer steps."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from tensordict import TensorDict
from torch import Tensor, nn
from torch.optim import Optimizer

from sheeprl import seeding
from sheeprl.actors.fragment import UpdateInfo, Write, Writes
from sheeprl.actors.replay import join_parts
from sheeprl.algos.args import OnPolicy
from sheeprl.algos.base import Average, Loss, LossFunction, Phase, Spaces, Step, Tensors
from sheeprl.algos.build import build_algorithm
from sheeprl.buffer.flat import flatten, unflatten
from sheeprl.buffer.memory import Array
from sheeprl.buffer.priorities import normalize_importance
from sheeprl.buffer.storage import Rows
from sheeprl.config import Config
from sheeprl.models import weights as weights_of


class NonFiniteError(RuntimeError):
    """A loss or its gradient is not a finite number. The step that would have spread it was not taken."""


@dataclass
class Group:
    """The parameters of one optimizer."""

    parameters: list[nn.Parameter]
    optimizer: Optimizer
    learning_rates: list[float]
    max_grad_norm: float | None


class Learner:
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
        self.algorithm = build_algorithm(config, spaces)
        torch.manual_seed(seeding.seeds(seed, seeding.Role.AGENT)[0])
        self.agent = fabric.to_device(self.algorithm.build_agent())
        self.groups = self._build_groups()
        self.gradient_steps = 0
        # Minibatches and noise are drawn for the whole group, the same on every rank, and each rank takes its part:
        # so a result doesn't depend on the number of ranks.
        self.group_rng = torch.Generator().manual_seed(seeding.seeds(seed, seeding.Role.LEARNER)[0])
        self.rank_rng = self._own_generator()
        self._failure: NonFiniteError | None = None
        self._compiled: dict[LossFunction, LossFunction] = {}

    def _own_generator(self) -> np.random.Generator:
        """What this rank draws from in the coming update: made anew for each, so that no rank has a state to keep."""
        key = seeding.sequence(self.config.run.seed, seeding.Role.RANK, self.rank, self.gradient_steps)
        return np.random.Generator(np.random.PCG64(key))

    def _build_groups(self) -> dict[str, Group]:
        groups = {}
        for name, spec in self.algorithm.optimizers().items():
            modules = [self.agent.get_submodule(module) for module in spec.modules]
            parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
            optimizer = spec.build(parameters)
            rates = [float(group["lr"]) for group in optimizer.param_groups]
            groups[name] = Group(parameters, optimizer, rates, spec.max_grad_norm)
        return groups

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
        torch.manual_seed(int(self.rank_rng.integers(2**31)))  # for modules that draw by themselves
        metrics: dict[str, list[Tensor]] = {}
        writes: Writes = []
        try:
            for batch in self._batches(steps, order, blocks):
                for name, value in self._gradient_step(batch, progress, writes).items():
                    metrics.setdefault(name, []).append(value)
        except NonFiniteError as error:
            self._failure = error
            raise
        means = self._means(metrics)
        return UpdateInfo(self.gradient_steps, means, time.perf_counter() - started, started), writes

    def _gradient_step(self, batch: TensorDict, progress: float, writes: Writes) -> Tensors:
        """One pass over the phases; the metrics of all of them."""
        carried: Tensors = {}
        metrics: Tensors = {}
        for phase in self.algorithm.phases(Step(self.gradient_steps, progress)):
            noise = self._noise(phase, batch)
            scalars = {name: torch.tensor(value, device=self.fabric.device) for name, value in phase.scalars.items()}
            with self.fabric.autocast():
                loss = self._loss_function(phase)(self.agent, batch, noise, {**carried, **scalars})
            self._minimize(self.groups[phase.optimizer], phase, loss)
            for average in phase.averages:
                self._move_average(average)
            for name, value in loss.buffers.items():
                self.agent.get_buffer(name).copy_(self._group_sum(value) / self.world)
            carried.update(loss.carry)
            metrics.update(loss.metrics)
            if loss.write or loss.priority is not None:
                writes.append(_write(batch, loss))
        self.gradient_steps += 1
        return metrics

    def _minimize(self, group: Group, phase: Phase, loss: Loss) -> None:
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(loss.value, group.parameters, allow_unused=True)
        if self.world > 1:
            gradients = self._average_over_ranks(group, gradients)
        for parameter, gradient in zip(group.parameters, gradients, strict=True):
            parameter.grad = gradient
        norm = torch.nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None])
        if not math.isfinite(norm.item()):
            raise NonFiniteError(self._blame(phase, loss))
        if group.max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(group.parameters, group.max_grad_norm, norm)
        for settings, rate in zip(group.optimizer.param_groups, group.learning_rates, strict=True):
            settings["lr"] = rate * phase.lr_scale
        group.optimizer.step()

    def _average_over_ranks(self, group: Group, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        """One all-reduce of all gradients as one vector."""
        filled = [
            torch.zeros_like(parameter) if gradient is None else gradient
            for parameter, gradient in zip(group.parameters, gradients, strict=True)
        ]
        flat = torch.cat([gradient.flatten() for gradient in filled])
        mean: Any = self.fabric.all_reduce(flat, reduce_op="mean")
        parts = mean.split([gradient.numel() for gradient in filled])
        return tuple(part.view_as(gradient) for part, gradient in zip(parts, filled, strict=True))

    def _blame(self, phase: Phase, loss: Loss) -> str:
        """Which loss is not finite, and when."""
        bad = [f"{name} is {value.item()}" for name, value in loss.metrics.items() if not torch.isfinite(value).all()]
        what = " and ".join(bad) or f"the gradient of the loss of {phase.optimizer!r} is not finite"
        return f"{what} at gradient step {self.gradient_steps}"

    def _move_average(self, average: Average) -> None:
        online = self.agent.get_submodule(average.online).parameters()
        target = self.agent.get_submodule(average.target).parameters()
        with torch.no_grad():
            for goal, parameter in zip(online, target, strict=True):
                parameter.lerp_(goal, average.tau)

    def _loss_function(self, phase: Phase) -> LossFunction:
        if not self.config.trainer.compile:
            return phase.loss
        if phase.loss not in self._compiled:
            self._compiled[phase.loss] = torch.compile(phase.loss)
        return self._compiled[phase.loss]

    # ----------------------------------------------------------------------------------------- batches

    def _batches(self, steps: int, order: int | None, blocks: Sequence[Rows]) -> Iterator[TensorDict]:
        """The batches of this rank, each with `weight`."""
        data = self.algorithm.data()
        if isinstance(data, OnPolicy):
            yield from self._minibatches(data, blocks[0], steps)
            return
        rows = dict(blocks[0]) if order is None else join_parts(blocks, order, steps)
        # Of a sequence there is one importance, so that it isn't one of the rows [L, N].
        importance = {"importance": rows.pop("importance").copy()} if "importance" in rows else {}
        normalize_importance(importance)
        every_rank = slice(None) if self.has_shard else slice(self.rank, None, self.world)
        batches = self._to_device(unflatten(rows, rows["index"].ndim)[..., every_rank])
        samples = batches.batch_size[-1]
        per_sample = {
            name: torch.from_numpy(values[:, every_rank]).to(self.fabric.device) for name, values in importance.items()
        }
        per_sample["weight"] = torch.full((1, samples), 1.0 / samples, device=self.fabric.device).expand(steps, -1)
        for number, batch in enumerate(batches.unbind(0)):
            if batch.batch_dims > 1:
                batch.batch_size = torch.Size([])  # sequences [L, N] next to weights [N]
            yield batch.update({name: values[number] for name, values in per_sample.items()})

    def _minibatches(self, data: OnPolicy, block: Rows, steps: int) -> Iterator[TensorDict]:
        """Shuffled minibatches of the prepared rollout: all of one shape, filled up with masked rows."""
        with torch.no_grad(), self.fabric.autocast():
            rows = self.algorithm.prepare(self.agent, self._to_device(unflatten(block, batch_dims=2)))
        rows = rows.reshape(-1)
        valid = torch.nonzero(rows["mask"].cpu()).squeeze(-1)
        ranks = 1 if self.has_shard else self.world
        shape = self._minibatch_rows(data, len(rows))
        minibatches = data.minibatches(len(rows) * (self.world // ranks))
        for step in range(steps):
            if step % minibatches == 0:
                chunks = self._shuffled(valid).tensor_split(minibatches)
            yield self._minibatch(data, rows, chunks[step % minibatches], shape, ranks)

    def _minibatch_rows(self, data: OnPolicy, rows: int) -> int:
        """Rows of a minibatch, before it is shared out where all ranks read the same rollout of `rows` rows."""
        if self.has_shard:
            return data.batch_size // self.world if data.batch_size else rows
        return data.batch_size or math.ceil(rows / self.world) * self.world

    def _shuffled(self, valid: Tensor) -> Tensor:
        if self.has_shard:
            order = torch.from_numpy(self.rank_rng.permutation(len(valid)))
        else:
            order = torch.randperm(len(valid), generator=self.group_rng)
        return valid[order]

    def _minibatch(self, data: OnPolicy, rows: TensorDict, chosen: Tensor, shape: int, ranks: int) -> TensorDict:
        """One minibatch, or what of it is this rank's."""
        mask = torch.zeros(shape, dtype=torch.bool)
        mask[: len(chosen)] = True
        padded = torch.zeros(shape, dtype=torch.long)
        padded[: len(chosen)] = chosen
        part = slice(None) if ranks == 1 else slice(self.rank, None, ranks)
        batch: TensorDict = rows[padded[part].to(self.fabric.device)]
        mask = mask[part].to(self.fabric.device)
        count = self._group_sum(mask.sum().float()).clamp_min(1)  # rows may all be ends of episodes
        batch["weight"] = mask * (self.world / count)
        for key in data.standardize:
            batch[key] = self._standardized(batch[key], mask, count)
        return batch

    def _standardized(self, values: Tensor, mask: Tensor, count: Tensor) -> Tensor:
        """Zero mean and unit standard deviation over what is valid in the whole group."""
        mean = self._group_sum((values * mask).sum()) / count
        variance = self._group_sum(((values - mean) ** 2 * mask).sum()) / (count - 1).clamp_min(1)
        return (values - mean) / (variance.sqrt() + 1e-8)

    def _group_sum(self, value: Tensor) -> Tensor:
        if self.world == 1:
            return value
        total: Tensor = self.fabric.all_reduce(value, reduce_op="sum")  # type: ignore[assignment]
        return total

    def _to_device(self, data: TensorDict) -> TensorDict:
        """On CPU the data itself, read-only where it came out of the object store."""
        device = self.fabric.device
        if device.type == "cpu":
            return data
        if device.type == "cuda":  # from pinned memory the copy goes on while the next kernels are being queued
            return data.pin_memory().to(device, non_blocking=True)
        return data.to(device)

    def _noise(self, phase: Phase, batch: TensorDict) -> Tensors:
        """What of the group's noise is this rank's."""
        if phase.noise is None:
            return {}
        local = len(batch["weight"])
        drawn = phase.noise(torch.Size([local * self.world]), self.group_rng)
        return {name: values[self.rank :: self.world].to(self.fabric.device) for name, values in drawn.items()}

    def _means(self, metrics: dict[str, list[Tensor]]) -> dict[str, float]:
        """Mean of every metric over the steps and the ranks."""
        if not metrics:
            return {}
        means = torch.stack([torch.stack(values).float().mean() for values in metrics.values()])
        if self.world > 1:
            means = self.fabric.all_reduce(means, reduce_op="mean")  # type: ignore[assignment]
        return dict(zip(metrics, means.tolist(), strict=True))

    # ------------------------------------------------------------------------------------------- state

    def weights(self, copy: bool = True) -> tuple[int, Rows]:
        """Gradient steps taken, and the policy's weights after them.

        Args:
            copy: whether they must outlast the next update.
        """
        return self.gradient_steps, weights_of.to_arrays(self.agent.get_submodule("policy"), copy)

    def snapshot(self) -> tuple[int, Array | None]:
        """Everything that has been learned, as a file of `torch.save` in memory.

        Returns:
            How many gradient steps have been taken, and, from rank 0, `[bytes]` uint8.

        Raises:
            NonFiniteError: the agent is beyond use, and no checkpoint is better than one of it.
        """
        if bad := [name for name, values in self.agent.state_dict().items() if not torch.isfinite(values).all()]:
            raise NonFiniteError(f"the agent's {bad[0]} is not finite any more")
        if self.rank:
            return self.gradient_steps, None  # ranks differ in nothing
        state = {
            "agent": self.agent.state_dict(),
            "optimizers": {name: group.optimizer.state_dict() for name, group in self.groups.items()},
            "gradient_steps": self.gradient_steps,
            "generator": self.group_rng.get_state(),
        }
        file = io.BytesIO()
        torch.save(state, file)
        return self.gradient_steps, np.frombuffer(file.getbuffer(), np.uint8)

    def restore(self, data: Array) -> int:
        """Take over a snapshot; how many gradient steps it has taken."""
        file = io.BytesIO(data.tobytes())
        state = torch.load(file, map_location="cpu", weights_only=True)
        self.agent.load_state_dict(state["agent"])
        for name, group in self.groups.items():
            group.optimizer.load_state_dict(state["optimizers"][name])
        self.gradient_steps = int(state["gradient_steps"])
        self.group_rng.set_state(state["generator"])
        self._failure = None
        return self.gradient_steps


def _write(batch: TensorDict, loss: Loss) -> Write:
    """What a loss gave for the rows of its batch, as it travels."""
    # In the dtypes that are stored: NumPy doesn't know the bfloat16 of mixed precision.
    stored = {name: value.to(batch[name].dtype) for name, value in loss.write.items()}
    values = flatten(TensorDict(stored, batch_size=batch["index"].shape).cpu())
    priority = None if loss.priority is None else loss.priority.float().cpu().numpy()
    return Write(batch["index"].cpu().numpy(), values, priority)
