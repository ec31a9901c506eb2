"""Convert the rows that the replay shards send into the batches that losses get.

`read` yields the tensors of each gradient step, of the same shapes in every step. `assemble` makes the batch from them.
`assemble` is a part of the gradient step and is compiled with it; `read` runs outside of it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from sheeprl.algos.args import OnPolicy
from sheeprl.algos.base import Algorithm, PreparedRollout, Tensors
from sheeprl.buffer.priorities import normalize_importance
from sheeprl.buffer.storage import Rows
from sheeprl.buffer.tensordicts import leaves, nested, to_tensor, unflatten
from sheeprl.learning.step import leaf_names
from sheeprl.models.ranks import Ranks
from sheeprl.utils.errors import AlgorithmError, naming_function
from sheeprl.utils.tensors import Tree, moved


@dataclass(frozen=True)
class Share:
    """Share of one rank in the trainer group's data.

    Args:
        rank: rank of this process.
        ranks: the trainer group; sums tensors over the ranks.
        has_shard: each rank samples from its own replay shard; otherwise all ranks get the samples of the whole group.
        device: device of the batches.
    """

    rank: int
    ranks: Ranks
    has_shard: bool
    device: torch.device

    @property
    def part(self) -> slice:
        """Return the slice of the received samples that belongs to this rank."""
        return slice(None) if self.has_shard else slice(self.rank, None, self.ranks.world)

    def to_device(self, data: TensorDict) -> TensorDict:
        """Return the data on the device. On CPU this is the same object, read-only if it is in the object store."""
        if self.device.type == "cpu":
            return data
        return TensorDict(nested(moved(leaves(data), self.device)), batch_size=data.batch_size)


class Batches(ABC):
    """Conversion of received rows into batches, for one way to read data."""

    def buffers(self) -> Tensors:
        """Return the new values of the agent's buffers, by name, that follow from the data last read."""
        return {}

    @abstractmethod
    def read(self, steps: int, order: int | None, blocks: Sequence[Rows]) -> Iterator[Tree]:
        """Yield the tensors of `steps` gradient steps, on the CPU or the device; see `Learner.update` for arguments."""

    @abstractmethod
    def assemble(self, tensors: Tree) -> TensorDict:
        """Return the batch of one step, with `sample_weight`, from tensors of `read` that are on the device."""

    @abstractmethod
    def samples(self, tensors: Tree) -> int:
        """Return the number of samples in the batch, N."""

    @abstractmethod
    def index(self, tensors: Tree) -> Tensor:
        """Return the positions of the batch's rows in the replay buffer, `[N]` or `[L, N]`."""


class Samples(Batches):
    """Batches of samples from the replay buffer: transitions `[N]` or sequences `[L, N]`.

    Args:
        share: this rank's share of the samples.
    """

    def __init__(self, share: Share) -> None:
        """Store the share."""
        self.share = share

    def read(self, steps: int, order: int | None, blocks: Sequence[Rows]) -> Iterator[Tree]:
        """Yield this rank's part of each batch, on the CPU."""
        rows = dict(blocks[0]) if order is None else join_parts(blocks, order, steps)
        # A sequence has one importance weight, so `importance` is [N], not [L, N] like the rows.
        importance = {"importance": rows.pop("importance").copy()} if "importance" in rows else {}
        normalize_importance(importance)
        part = self.share.part
        rank_part = (slice(None),) * (rows["index"].ndim - 1) + (part,)  # samples are the last axis of `index`
        by_step = {key: to_tensor(values)[rank_part].unbind(0) for key, values in rows.items()}
        per_sample = {name: torch.from_numpy(values[:, part]) for name, values in importance.items()}
        for step in range(steps):
            yield {
                "rows": {key: values[step] for key, values in by_step.items()},
                "per_sample": {name: values[step] for name, values in per_sample.items()},
            }

    def assemble(self, tensors: Tree) -> TensorDict:
        """Return the batch of rows, with `sample_weight` `[N]` and, if prioritized, `importance` `[N]`."""
        index = tensors["rows"]["index"]
        samples = index.shape[-1]
        # With sequences, rows are [L, N] but weights [N], so the batch has no common batch axes.
        batch = TensorDict(nested(tensors["rows"]), batch_size=index.shape if index.ndim == 1 else [])
        weight = torch.full((samples,), 1.0 / samples, device=index.device)
        return batch.update({**tensors["per_sample"], "sample_weight": weight})

    def samples(self, tensors: Tree) -> int:
        """Return the number of transitions or sequences in the batch, N."""
        return self.index(tensors).shape[-1]

    def index(self, tensors: Tree) -> Tensor:
        """Return the positions of the batch's rows in the replay buffer, `[N]` or `[L, N]`."""
        index: Tensor = tensors["rows"]["index"]
        return index


class Minibatches(Batches):
    """Shuffled minibatches of a prepared rollout, all of one shape: masked rows pad the smaller ones.

    A minibatch consists of pieces: single rows, or sequences of L successive rows of one environment.

    Args:
        algorithm: algorithm that prepares the rollout.
        data: sizes of rollout and minibatches, epochs, and keys to standardize.
        agent: module with all networks.
        share: this rank's share of the rollout.
        permute: function that draws a random permutation of n numbers.
        autocast: function that makes a context of the computation's precision.
    """

    def __init__(
        self,
        algorithm: Algorithm[Any],
        data: OnPolicy,
        agent: nn.Module,
        share: Share,
        permute: Callable[[int], Tensor],
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        """Store the arguments."""
        self.algorithm, self.data, self.agent, self.share = algorithm, data, agent, share
        self.permute, self.autocast = permute, autocast
        self._buffers: Tensors = {}

    def buffers(self) -> Tensors:
        """Return `PreparedRollout.buffers` of the rollout last read."""
        return self._buffers

    def read(self, steps: int, order: int | None, blocks: Sequence[Rows]) -> Iterator[Tree]:
        """Yield the prepared rollout, on the device, and each minibatch's row numbers and mask, on the CPU."""
        share = self.share
        name = f"{type(self.algorithm).__name__}.prepare_rollout()"
        rollout = share.to_device(unflatten(blocks[0], batch_dims=2))
        known = f"the rollout has {', '.join(blocks[0])}"
        with torch.no_grad(), self.autocast(), naming_function(name, lambda: known):
            prepared = self.algorithm.prepare_rollout(self.agent, rollout)
        self._buffers = prepared.buffers if isinstance(prepared, PreparedRollout) else {}
        prepared = prepared.rows if isinstance(prepared, PreparedRollout) else prepared
        self._check_prepared(name, prepared)
        row, is_action = self._pieces(prepared["mask"].cpu())
        prepared = prepared.reshape(-1)
        rows = {key: values.contiguous() for key, values in leaves(prepared).items()}
        valid = torch.nonzero(is_action.any(0)).squeeze(-1)
        world = share.ranks.world
        minibatches = self.data.minibatches(len(prepared) * (world if share.has_shard else 1))
        place, mask = self._places(len(valid), minibatches, self._shape(self.data.pieces(len(prepared))))
        valid = valid if len(valid) else torch.zeros(1, dtype=torch.long)  # a placeholder; every mask excludes it
        for step in range(steps):
            number = step % minibatches
            if number == 0:
                pieces = valid[self.permute(len(valid))[place]]  # [minibatches, N]
                if self.data.sequence is None:  # a piece is a row, and valid ones have an action
                    chosen, counted = pieces.unbind(0), mask.unbind(0)
                else:
                    chosen = _by_minibatch(row[:, pieces])
                    counted = _by_minibatch(is_action[:, pieces] & mask)
            yield {"rows": rows, "chosen": chosen[number], "mask": counted[number]}

    def _check_prepared(self, name: str, prepared: TensorDict) -> None:
        """Check that a prepared rollout has the mask and the keys to standardize.

        Raises:
            AlgorithmError: it doesn't.
        """
        names, keys = ", ".join(leaf_names(prepared)), set(prepared.keys())
        if "mask" not in keys or prepared["mask"].dtype != torch.bool:
            raise AlgorithmError(
                f"{name} returned no boolean 'mask' but {names}; add a mask [T, B] that is true on rows with an action"
            )
        if missing := [key for key in self.data.standardize if key not in keys]:
            raise AlgorithmError(f"{name} returned no {missing[0]!r}, which data() standardizes, but {names}")

    def _pieces(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Divide a rollout into pieces of L rows, or of one row without sequences.

        Args:
            mask: `[T, B]`, true on rows with an action.

        Returns:
            Row numbers `[L, pieces]` in the flattened rollout, and a mask `[L, pieces]`, true on rows with an action.
            A piece that reaches beyond the rollout repeats the last row, where the mask is false.
        """
        length, (steps, envs) = self.data.sequence or 1, mask.shape
        time = torch.arange(math.ceil(steps / length) * length).reshape(-1, length).T  # [L, pieces of one env]
        row = time.clamp(max=steps - 1).unsqueeze(-1) * envs + torch.arange(envs)
        is_action = mask.reshape(-1)[row] & (time < steps).unsqueeze(-1)
        return row.flatten(1), is_action.flatten(1)

    def _shape(self, pieces: int) -> int:
        """Return the pieces of a minibatch, of all ranks that read the same rollout of `pieces` pieces."""
        batch_size, world = (self.data.batch_size or 0) // (self.data.sequence or 1), self.share.ranks.world
        if self.share.has_shard:
            return batch_size // world if batch_size else pieces
        return batch_size or math.ceil(pieces / world) * world

    def _places(self, valid: int, minibatches: int, shape: int) -> tuple[Tensor, Tensor]:
        """Divide a shuffled order of the valid pieces into minibatches, and return this rank's part of them.

        Args:
            valid: number of pieces with an action.
            minibatches: minibatches per epoch.
            shape: pieces of a minibatch, padding included.

        Returns:
            Places in the order, `[minibatches, N]`, and a mask `[minibatches, N]`, false on padding. The padding
            repeats the first piece of the order.
        """
        smallest, larger = divmod(valid, minibatches)
        sizes = torch.full((minibatches, 1), smallest)
        sizes[:larger] += 1
        mask = torch.arange(shape) < sizes
        place = torch.zeros((minibatches, shape), dtype=torch.long)
        place[mask] = torch.arange(valid)
        part = self.share.part
        return place[:, part].contiguous(), mask[:, part].contiguous()

    def assemble(self, tensors: Tree) -> TensorDict:
        """Return the minibatch `[N]` or `[L, N]`, with `sample_weight`, standardized keys and a sequence's `mask`."""
        ranks, chosen, mask = self.share.ranks, tensors["chosen"], tensors["mask"]
        rows = nested({key: values[chosen] for key, values in tensors["rows"].items()})
        batch = TensorDict(rows, batch_size=chosen.shape)
        count = ranks.sum(mask.sum().float()).clamp_min(1)  # a rollout may consist of end rows only
        batch["sample_weight"] = mask * (ranks.world / count)
        if self.data.sequence is not None:
            batch["mask"] = mask
        for key in self.data.standardize:
            batch[key] = self._standardized(batch[key], mask, count)
        return batch

    def _standardized(self, values: Tensor, mask: Tensor, count: Tensor) -> Tensor:
        """Return (x − mean) / std with mean and standard deviation over the valid rows of the whole group.

        A single valid row is returned unchanged: standardized it would be 0, and its minibatch would teach nothing.
        """
        ranks = self.share.ranks
        mean = ranks.sum((values * mask).sum()) / count
        variance = ranks.sum(((values - mean) ** 2 * mask).sum()) / (count - 1).clamp_min(1)
        return torch.where(count > 1, (values - mean) / (variance.sqrt() + 1e-8), values)

    def samples(self, tensors: Tree) -> int:
        """Return the rows or sequences of the minibatch, padding included."""
        chosen: Tensor = tensors["chosen"]
        return chosen.shape[-1]

    def index(self, tensors: Tree) -> Tensor:
        """Refuse: rows of a rollout have no position in the replay buffer.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            "a loss of an on-policy algorithm returned Loss.write or Loss.priority, but rollouts are discarded after "
            "training; use OffPolicy data to write back"
        )


def _by_minibatch(values: Tensor) -> tuple[Tensor, ...]:
    """Return `[L, minibatches, N]` values as one contiguous `[L, N]` tensor per minibatch."""
    return values.transpose(0, 1).contiguous().unbind(0)


def join_parts(parts: Sequence[Rows], order: int, n_batches: int) -> Rows:
    """Join the samples of several shards, shuffle them and divide them into batches.

    Args:
        parts: for each shard, `[1, count, *]` transitions or `[1, L, count, *]` sequences.
        order: seed of the permutation.
        n_batches: number of batches.

    Returns:
        `[n_batches, batch_size, *]` or `[n_batches, L, batch_size, *]`.
    """
    sample_axis = parts[0]["index"].ndim - 2  # after removal of the first axis, of size 1
    counts = [part["index"].shape[-1] for part in parts]
    batch_size = sum(counts) // n_batches
    shuffled = np.random.Generator(np.random.PCG64(order)).permutation(sum(counts))
    places = [divmod(place, batch_size) for place in np.split(shuffled, np.cumsum(counts)[:-1])]
    block: Rows = {}
    for name, first in parts[0].items():
        axis = 0 if name == "importance" else sample_axis  # a sequence has one importance weight
        shape = first.shape[1:]
        # A batch is contiguous. Other strides would depend on `n_batches`, and compiled steps depend on strides.
        block[name] = np.empty((n_batches, *shape[:axis], batch_size, *shape[axis + 1 :]), first.dtype)
        samples = np.moveaxis(block[name], 0, axis)
        for part, place in zip(parts, places, strict=True):
            samples[(slice(None),) * axis + place] = part[name][0]
    return block
