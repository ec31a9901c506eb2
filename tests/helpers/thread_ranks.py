"""Ranks of a trainer group that are threads, for tests of what a loss sums or joins over them."""

import threading

import torch

from sheeprl.models.ranks import trainer_group


class Meeting:
    """Ranks that are threads, and meet at each sum."""

    def __init__(self, world):
        """Make the barrier."""
        self.world, self.barrier, self.values = world, threading.Barrier(world), [None] * world

    def of(self, number):
        """Return one rank's view."""

        class Rank:
            """One rank."""

            rank, world = number, self.world

            @staticmethod
            def sum(value):
                """Return the sum over the ranks."""
                self.values[number] = value
                self.barrier.wait(10)
                total = torch.stack(list(self.values)).sum(0)
                self.barrier.wait(10)
                return total

        return Rank()


def on_ranks(function, world=2):
    """Return the results of `function(rank)` on all ranks."""
    meeting, results = Meeting(world), [None] * world

    def work(rank):
        """Compute one rank's result."""
        with trainer_group(meeting.of(rank)):
            results[rank] = function(rank)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results
