"""Test calls to several ranks, some of which fail."""

import asyncio

import pytest

from sheeprl.actors.handle import DataLostError, LocalRef, LostError
from sheeprl.actors.ray.handle import GroupRef

GONE = DataLostError("the batch is gone")


def answer_of(*errors):
    """Return the result of ranks with these errors."""

    async def wait():
        """Wait for the group's result."""
        return await GroupRef([LocalRef(number, error) for number, error in enumerate(errors)])

    return asyncio.run(wait())


def test_the_result_is_the_first_ranks():
    """The group's result is the first rank's."""
    assert answer_of(None, None) == 0


def test_missing_data_on_all_ranks_is_a_data_loss():
    """The same missing data on all ranks is a data loss."""
    with pytest.raises(DataLostError, match="the batch is gone"):
        answer_of(GONE, GONE)
    with pytest.raises(DataLostError):
        answer_of(GONE)


def test_missing_data_on_some_ranks_loses_the_group():
    """Missing data on some ranks is a loss of the group."""
    with pytest.raises(LostError, match="out of step: the batch is gone"):
        answer_of(None, GONE)


def test_a_death_takes_precedence():
    """The death of a rank takes precedence over other errors."""
    with pytest.raises(LostError, match="it died"):
        answer_of(GONE, LostError("it died"))
