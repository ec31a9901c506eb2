"""Test that real players continue where a lost one stood."""

import asyncio

import numpy as np
import pytest

from sheeprl.actors.handle import LocalHandle, LocalRef, LostError
from sheeprl.actors.player import Player
from sheeprl.driver.players import PlayerGroup, Request
from sheeprl.models.weights import to_arrays
from tests.envs.test_snapshot import resolved


@pytest.mark.parametrize(("env", "mode"), [("CartPole-v1", "explore"), ("Pendulum-v1", "random")])
def test_a_lost_player_continues(env, mode):
    """A player that dies twice, before and after its first state, returns the fragments of one that lives."""
    found = resolved(env)
    weights = [to_arrays(Player(found.config, found.spaces, 9).policy) for _ in range(2)]  # drawn at random

    async def play(deaths):
        """Return the rows of six fragments, with a state after every second one."""
        group = PlayerGroup(1, lambda number, life: LocalHandle(Player(found.config, found.spaces, number, life)), [])
        group.keeps_origins, rows = True, []
        for number in range(6):
            if number in deaths:
                group.drop(0)
            request = Request(5, LocalRef(weights[number % 2]), number, mode, number / 6, None)
            info, fragment = request.send(await group.get(0), keep_state=number % 2 == 1)
            group.note_answer(0, request, await info)
            rows.append(await fragment)
        return group, rows

    _, whole = asyncio.run(play(()))
    group, others = asyncio.run(play((1, 3, 4)))
    assert group.incarnations == [0]
    for one, other in zip(whole, others, strict=True):
        assert (one.incarnation, one.sequence) == (other.incarnation, other.sequence)
        assert one.rows.keys() == other.rows.keys()
        assert all(np.array_equal(one.rows[name], other.rows[name]) for name in one.rows)


def test_a_player_that_dies_while_it_continues_is_released():
    """Its origin remains for the next one."""

    class Dead:
        """Handle of a player that is dead."""

        is_closed = False

        def call(self, method, *args):
            """Raise."""
            return LocalRef(error=LostError("it died"))

        def close(self):
            """Note the end."""
            self.is_closed = True

    async def check():
        """Continue from a state."""
        dead = Dead()
        group = PlayerGroup(1, lambda number, life: dead, [0])
        group.keeps_origins = True
        group.origins[0] = origin = type("Origin", (), {"incarnation": 0, "data": b"state", "answered": ()})()
        with pytest.raises(LostError):
            await group.get(0)
        assert dead.is_closed and group.origins[0] is origin and not group.handles

    asyncio.run(check())
