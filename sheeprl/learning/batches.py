"""From what the replay sent to the batches that losses see.

`read` gives the tensors of each gradient step, all of the same shapes; `assemble` makes the batch of them. The first is
cheap and carried out once, the second is a part of the step and compiled with it.
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
from sheeprl.algos.base import Algorithm
from sheeprl.buffer.priorities import normalize_importance
from sheeprl.buffer.storage import Rows
from sheeprl.buffer.tensordicts import leaves, nested, to_tensor, unflatten
from sheeprl.learning.step import Ranks
from sheeprl.utils.tensors import Tree, moved


@dataclass(frozen=True)
class Share:
    """What of the group's data is this rank's.

    Args:
        rank: of this process.
        ranks: all of them, and how their tensors become one.
        has_shard: whether every rank samples from a buffer of its own rather than all from one.
        device: where batches go.
    """

    rank: int
    ranks: Ranks
    has_shard: bool
    device: torch.device

    @property
    def part(self) -> slice:
        """Of samples that all ranks have been sent."""
        return slice(None) if self.has_shard else slice(self.rank, None, self.ranks.world)

    def to_device(self, data: TensorDict) -> TensorDict:
        """On CPU the data itself, read-only where it came out of the object store."""
        if self.device.type == "cpu":
            return data
        return TensorDict(nested(moved(leaves(data), self.device)), batch_size=data.batch_size)


class Batches(ABC):
    """How an algorithm's batches come about."""

    @abstractmethod
    def read(self, steps: int, order: int | None, blocks: Sequence[Rows]) -> Iterator[Tree]:
        """The tensors of `steps` gradient steps, some of them on the CPU; see `Learner.update` for the arguments."""

    @abstractmethod
    def assemble(self, tensors: Tree) -> TensorDict:
        """The batch of one step, with `weight`, of tensors that are on the device by now."""

    @abstractmethod
    def samples(self, tensors: Tree) -> int:
        """How many samples such a batch has."""

    @abstractmethod
    def index(self, tensors: Tree) -> Tensor:
        """Which rows of the replay they are, `[N]` or `[L, N]`."""


class Samples(Batches):
    """What the replay drew: transitions `[N]` or sequences `[L, N]`."""

    def __init__(self, share: Share) -> None:
        self.share = share

    def read(self, steps: int, order: int | None, blocks: Sequence[Rows]) -> Iterator[Tree]:
        """What of each batch is this rank's, on the CPU."""
        rows = dict(blocks[0]) if order is None else join_parts(blocks, order, steps)
        # Of a sequence there is one importance, so that it isn't one of the rows [L, N].
        importance = {"importance": rows.pop("importance").copy()} if "importance" in rows else {}
        normalize_importance(importance)
        part = self.share.part
        place = (slice(None),) * (rows["index"].ndim - 1) + (part,)  # samples are the last axis that all rows have
        by_step = {key: to_tensor(values)[place].unbind(0) for key, values in rows.items()}
        per_sample = {name: torch.from_numpy(values[:, part]) for name, values in importance.items()}
        for step in range(steps):
            yield {
                "rows": {key: values[step] for key, values in by_step.items()},
                "per_sample": {name: values[step] for name, values in per_sample.items()},
            }

    def assemble(self, tensors: Tree) -> TensorDict:
        """Rows, and what there is one of for each sample."""
        index = tensors["rows"]["index"]
        samples = index.shape[-1]
        # Sequences [L, N] lie next to weights [N].
        batch = TensorDict(nested(tensors["rows"]), batch_size=index.shape if index.ndim == 1 else [])
        weight = torch.full((samples,), 1.0 / samples, device=index.device)
        return batch.update({**tensors["per_sample"], "sample_weight": weight})

    def samples(self, tensors: Tree) -> int:
        """How many samples such a batch has."""
        return self.index(tensors).shape[-1]

    def index(self, tensors: Tree) -> Tensor:
        """Which rows of the replay they are, `[N]` or `[L, N]`."""
        index: Tensor = tensors["rows"]["index"]
        return index


class Minibatches(Batches):
    """Shuffled minibatches of the prepared rollout: all of one shape, filled up with masked rows.

    Args:
        algorithm: which prepares the rollout.
        agent: all networks.
        share: what is this rank's.
        permute: draws a permutation of as many numbers.
        autocast: makes a context of the precision that is computed in.
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
        self.algorithm, self.data, self.agent, self.share = algorithm, data, agent, share
        self.permute, self.autocast = permute, autocast

    def read(self, steps: int, order: int | None, blocks: Sequence[Rows]) -> Iterator[Tree]:
        """The rollout, on the device, and which of its rows are chosen, on the CPU."""
        share = self.share
        with torch.no_grad(), self.autocast():
            prepared = self.algorithm.prepare_rollout(self.agent, share.to_device(unflatten(blocks[0], batch_dims=2)))
        prepared = prepared.reshape(-1)
        rows = {key: values.contiguous() for key, values in leaves(prepared).items()}
        valid = torch.nonzero(prepared["mask"].cpu()).squeeze(-1)
        world = share.ranks.world
        minibatches = self.data.minibatches(len(prepared) * (world if share.has_shard else 1))
        place, mask = self._places(len(valid), minibatches, self._shape(len(prepared)))
        valid = valid if len(valid) else torch.zeros(1, dtype=torch.long)  # of which no batch counts any
        for step in range(steps):
            number = step % minibatches
            if number == 0:
                chosen = valid[self.permute(len(valid))[place]].unbind(0)
            yield {"rows": rows, "chosen": chosen[number], "mask": mask[number]}

    def _shape(self, rows: int) -> int:
        """Rows of a minibatch, before it is shared out where all ranks read the same rollout of `rows` rows."""
        batch_size, world = self.data.batch_size, self.share.ranks.world
        if self.share.has_shard:
            return batch_size // world if batch_size else rows
        return batch_size or math.ceil(rows / world) * world

    def _places(self, valid: int, minibatches: int, shape: int) -> tuple[Tensor, Sequence[Tensor]]:
        """What this rank reads in one pass over a shuffled order of valid rows.

        Returns:
            Which places of that order, `[minibatches, N]`, and of each minibatch which of its rows count, `[N]`: those
            that fill it up are the first of the order.
        """
        fewest, more = divmod(valid, minibatches)
        sizes = torch.full((minibatches, 1), fewest)
        sizes[:more] += 1
        mask = torch.arange(shape) < sizes
        place = torch.zeros((minibatches, shape), dtype=torch.long)
        place[mask] = torch.arange(valid)
        part = self.share.part
        return place[:, part].contiguous(), mask[:, part].contiguous().unbind(0)

    def assemble(self, tensors: Tree) -> TensorDict:
        """The chosen rows."""
        ranks, chosen, mask = self.share.ranks, tensors["chosen"], tensors["mask"]
        rows = nested({key: values[chosen] for key, values in tensors["rows"].items()})
        batch = TensorDict(rows, batch_size=chosen.shape)
        count = ranks.sum(mask.sum().float()).clamp_min(1)  # rows may all be ends of episodes
        batch["sample_weight"] = mask * (ranks.world / count)
        for key in self.data.standardize:
            batch[key] = self._standardized(batch[key], mask, count)
        return batch

    def _standardized(self, values: Tensor, mask: Tensor, count: Tensor) -> Tensor:
        """Zero mean and unit standard deviation over what is valid in the whole group, unless that is one row.

        One row would become 0, and its minibatch would teach nothing.
        """
        ranks = self.share.ranks
        mean = ranks.sum((values * mask).sum()) / count
        variance = ranks.sum(((values - mean) ** 2 * mask).sum()) / (count - 1).clamp_min(1)
        return torch.where(count > 1, (values - mean) / (variance.sqrt() + 1e-8), values)

    def samples(self, tensors: Tree) -> int:
        """How many samples such a batch has."""
        return len(tensors["chosen"])

    def index(self, tensors: Tree) -> Tensor:
        """A rollout is gone when it has been learned from.

        Raises:
            TypeError: always.
        """
        raise TypeError("what is learned once can't be written back to")


def join_parts(parts: Sequence[Rows], order: int, n_batches: int) -> Rows:
    """One block of batches from the samples of several shards, of which each may land in any place of any batch.

    Args:
        parts: of `[1, count, *]` transitions or `[1, L, count, *]` sequences.
        order: seed of the permutation.
        n_batches: how many batches the samples make.

    Returns:
        `[n_batches, batch_size, *]` or `[n_batches, L, batch_size, *]`.
    """
    sample_axis = parts[0]["index"].ndim - 2  # once the axis of 1 has been taken away
    counts = [part["index"].shape[-1] for part in parts]
    shuffled = np.random.Generator(np.random.PCG64(order)).permutation(sum(counts))
    places = np.split(shuffled, np.cumsum(counts)[:-1])
    block: Rows = {}
    for name, first in parts[0].items():
        axis = 0 if name == "importance" else sample_axis  # of a sequence there is one importance
        shape = list(first.shape[1:])
        shape[axis] = sum(counts)
        whole = np.empty(shape, first.dtype)
        for part, place in zip(parts, places, strict=True):
            whole[(slice(None),) * axis + (place,)] = part[name][0]
        split = whole.reshape(*shape[:axis], n_batches, -1, *shape[axis + 1 :])
        block[name] = np.moveaxis(split, axis, 0)
    return block
