"""What becomes of a call to several ranks, some of which fail."""

import asyncio

import pytest

from sheeprl.actors.handle import DataLostError, LocalRef, LostError
from sheeprl.actors.ray.handle import GroupRef

GONE = DataLostError("the batch is gone")


def answer_of(*errors):
    async def wait():
        return await GroupRef([LocalRef(number, error) for number, error in enumerate(errors)])

    return asyncio.run(wait())


def test_it_is_the_first_ranks():
    assert answer_of(None, None) == 0


def test_ranks_that_all_had_nothing_to_go_on_with_are_still_in_step():
    with pytest.raises(DataLostError, match="the batch is gone"):
        answer_of(GONE, GONE)
    with pytest.raises(DataLostError):
        answer_of(GONE)


def test_ranks_of_which_some_went_on_are_out_of_step():
    with pytest.raises(LostError, match="out of step: the batch is gone"):
        answer_of(None, GONE)


def test_a_death_explains_the_others_failures():
    with pytest.raises(LostError, match="it died"):
        answer_of(GONE, LostError("it died"))
