"""Test that statistics of all rows are the same on two ranks as on one."""

import torch

from sheeprl.models.normalizer import PercentileRange
from sheeprl.models.ranks import all_rows
from tests.helpers.thread_ranks import on_ranks


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
