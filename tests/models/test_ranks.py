"""Test that statistics of all rows are the same on two ranks as on one."""

import threading

import torch

from sheeprl.models.normalizer import PercentileRange
from sheeprl.models.ranks import all_rows, trainer_group


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


def test_every_rank_gets_all_rows():
    """Rows come rank by rank; a single rank and a call outside of a step get their own."""
    rows = torch.randn(6, 3)
    for result in on_ranks(lambda rank: all_rows(rows[rank * 3 : rank * 3 + 3])):
        assert torch.equal(result, rows)
    assert torch.equal(all_rows(rows.requires_grad_()), rows) and not all_rows(rows).requires_grad


def test_percentiles_of_two_ranks_equal_those_of_one():
    """The percentiles are those of all ranks' rows, not a mean of each rank's."""
    rows = torch.randn(8, 5) ** 3
    alone = PercentileRange(rate=0.5).updated(rows)
    for result in on_ranks(lambda rank: PercentileRange(rate=0.5).updated(all_rows(rows[rank::2]))):
        torch.testing.assert_close(result, alone)
