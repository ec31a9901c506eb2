"""Test commands to ranks, in a group of one."""

import pytest
import torch.distributed as dist
from lightning_fabric import Fabric

from sheeprl.actors.multi_rank import RankDispatcher, RankHandle


class Player:
    """Object that a `make` command creates."""

    def __init__(self, rom):
        """Raise without a ROM."""
        if rom is None:
            raise ValueError("the ROM is missing")

    def play(self):
        """Return a number."""
        return 3


@pytest.fixture
def dispatcher():
    """Yield a dispatcher in a group of one rank."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    dispatcher = RankDispatcher(Fabric(accelerator="cpu", devices=1), {}, {"player": Player})
    yield dispatcher
    dispatcher.end()


def test_the_error_of_a_constructor_is_raised(dispatcher):
    """The error of a failed `make` command reaches the caller."""
    with pytest.raises(ValueError, match="the ROM is missing"):
        dispatcher.make("player", "player 0.0", 0, (None,))
    dispatcher.make("player", "player 0.1", 0, ("a ROM",))
    assert dispatcher.fetch(RankHandle(dispatcher, "player 0.1", 0).call(Player.play)) == 3


def test_a_call_of_an_unknown_object_fails_alone(dispatcher):
    """A call of an unknown object fails and later calls work."""
    with pytest.raises(KeyError):
        dispatcher.fetch(RankHandle(dispatcher, "player 7.0", 0).call(Player.play))
    dispatcher.make("player", "player 7.1", 0, ("a ROM",))
    assert dispatcher.fetch(RankHandle(dispatcher, "player 7.1", 0).call(Player.play)) == 3
