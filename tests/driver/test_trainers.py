"""The trainer group as the driver sees it."""

import asyncio

import pytest

from sheeprl.driver.trainers import LearnerGroup


class Group:
    """Stands for a group: its rehearsal lasts until it is told to end, and each weights are others."""

    def __init__(self):
        self.rehearsal = asyncio.get_running_loop().create_future()
        self.laid_out = 0

    async def call(self, method):
        assert method.__name__ == "warm_up"
        await self.rehearsal

    def call_pair(self, method):
        assert method.__name__ == "weights"
        self.laid_out += 1
        return self.laid_out, self.laid_out


@pytest.mark.parametrize("error", [None, RuntimeError("it died")])
def test_players_go_on_with_the_first_weights_while_trainers_rehearse(error):
    async def scenario():
        group = Group()
        trainers = LearnerGroup(group, warms_up=True)
        assert trainers.weights() == (1, 1)
        trainers.warm_up()
        assert [trainers.weights() for _ in range(3)] == [(1, 1)] * 3
        if error:
            group.rehearsal.set_exception(error)
        else:
            group.rehearsal.set_result(None)
        await trainers.warmed_up()
        assert [trainers.weights() for _ in range(2)] == [(2, 2), (3, 3)]

    asyncio.run(scenario())
