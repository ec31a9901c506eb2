"""Trainer group whose ranks are threads of one process, so that fast tests cover several ranks."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import torch

from sheeprl.actors import learner as learner_module
from sheeprl.actors.learner import Learner


class RankFabric:
    """Fabric of one rank on the CPU.

    Args:
        rank: number of the rank.
        world: number of ranks.
    """

    device = torch.device("cpu")
    autocast = staticmethod(nullcontext)

    def __init__(self, rank, world):
        """Store the numbers."""
        self.global_rank, self.world_size = rank, world

    def to_device(self, module):
        """Return the module."""
        return module


class ThreadRanks:
    """Ranks that exchange tensors through shared memory.

    Args:
        barrier: barrier of all ranks.
        slots: one place per rank.
        fabric: Fabric of this rank.
    """

    def __init__(self, barrier, slots, fabric):
        """Store the arguments."""
        self.barrier, self.slots = barrier, slots
        self.rank, self.world = fabric.global_rank, fabric.world_size

    def sum(self, value):
        """Return the sum over the ranks, added in the order of the ranks."""
        self.slots[self.rank] = value.detach().clone()
        self.barrier.wait()
        total = torch.stack(self.slots).sum(0)
        self.barrier.wait()  # no rank overwrites its place before all have read it
        return total


def trained(monkeypatch, config, spaces, world, *update):
    """Return the agent's state after one update on `world` ranks; the arguments are those of `Learner.update`."""
    barrier = threading.Barrier(world, timeout=60)
    monkeypatch.setattr(learner_module, "FabricRanks", partial(ThreadRanks, barrier, [None] * world))
    learners = [Learner(config, spaces, RankFabric(rank, world)) for rank in range(world)]

    def take(learner):
        """Take the update; free the other ranks if it fails."""
        try:
            learner.update(*update)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(world) as pool:
        for result in [pool.submit(take, learner) for learner in learners]:
            result.result()
    states = [learner.agent.state_dict() for learner in learners]
    assert all(torch.equal(states[0][name], state[name]) for state in states for name in state)
    return states[0]
