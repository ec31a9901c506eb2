"""Test the driver's client of the trainer group."""

import asyncio

import pytest

from sheeprl.driver.trainers import LearnerGroup


class Group:
    """Fake group with a controllable warm-up, whose weights change with every call."""

    def __init__(self):
        """Start a warm-up."""
        self.warm_up_ends = asyncio.get_running_loop().create_future()
        self.versions = 0

    async def call(self, method):
        """Wait for the warm-up."""
        assert method.__name__ == "warm_up"
        await self.warm_up_ends

    def call_pair(self, method):
        """Return new weights."""
        assert method.__name__ == "weights"
        self.versions += 1
        return self.versions, self.versions


@pytest.mark.parametrize("is_ready", [True, False])
def test_a_wait_for_the_compiler_is_announced(is_ready):
    """The wait for a warm-up that isn't done is announced once."""

    async def scenario():
        """Wait for the warm-up."""
        group, calls = Group(), []
        trainers = LearnerGroup(group, warms_up=True)
        trainers.warm_up()

        def on_wait():
            """Note the call and end the warm-up."""
            calls.append("wait")
            group.warm_up_ends.set_result(None)

        if is_ready:
            group.warm_up_ends.set_result(None)
            await asyncio.sleep(0.01)
        await trainers.warmed_up(on_wait)
        assert calls == ([] if is_ready else ["wait"])

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [None, RuntimeError("it died")])
def test_players_use_the_first_weights_during_the_warm_up(error):
    """Players use the first weights during the warm-up."""

    async def scenario():
        """Request weights before, during and after the warm-up."""
        group = Group()
        trainers = LearnerGroup(group, warms_up=True)
        assert trainers.weights() == (1, 1)
        trainers.warm_up()
        assert [trainers.weights() for _ in range(3)] == [(1, 1)] * 3
        assert trainers.is_warming_up
        if error:
            group.warm_up_ends.set_exception(error)
        else:
            group.warm_up_ends.set_result(None)
        await asyncio.sleep(0.01)
        assert not trainers.is_warming_up  # though no update has waited for its end
        await trainers.warmed_up()
        assert [trainers.weights() for _ in range(2)] == [(2, 2), (3, 3)]

    asyncio.run(scenario())
