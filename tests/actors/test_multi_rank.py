"""Commands to ranks, on a group of one."""

import pytest
import torch.distributed as dist
from lightning.fabric import Fabric

from sheeprl.actors.multi_rank import RankDispatcher, RankHandle


class Player:
    def __init__(self, rom):
        if rom is None:
            raise ValueError("the ROM is missing")

    def play(self):
        return 3


@pytest.fixture
def link():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    link = RankDispatcher(Fabric(accelerator="cpu", devices=1), {}, {"player": Player})
    yield link
    link.end()


def test_who_cannot_be_made_says_why(link):
    with pytest.raises(ValueError, match="the ROM is missing"):
        link.make("player", "player 0.0", 0, (None,))
    link.make("player", "player 0.1", 0, ("a ROM",))
    assert link.fetch(RankHandle(link, "player 0.1", 0).call(Player.play)) == 3


def test_a_call_to_nobody_fails_and_leaves_the_line_open(link):
    with pytest.raises(KeyError):
        link.fetch(RankHandle(link, "player 7.0", 0).call(Player.play))
    link.make("player", "player 7.1", 0, ("a ROM",))
    assert link.fetch(RankHandle(link, "player 7.1", 0).call(Player.play)) == 3
