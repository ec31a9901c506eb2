"""Settings that don't fit each other are told before anything starts."""

import pytest

from sheeprl import ConfigError, load_config
from sheeprl.resolve import check


def mistakes_of(algorithm, *overrides):
    with pytest.raises(ConfigError) as caught:
        check(load_config(algorithm, overrides).model_dump(mode="json"))
    return caught.value.mistakes


@pytest.mark.parametrize(
    ("algorithm", "overrides", "said"),
    [
        ("sac", ["run.mode=coupled"], "buffer.shards=2: in coupled mode every rank has its part; leave it out or use"),
        ("ppo", ["players.num=2"], "buffer.shards=2: ppo reads whole rollouts out of one buffer; leave it out"),
        ("sac", [], "buffer.shards=2: more than players.num=1; the others would stay empty"),
        (
            "sac",
            ["players.num=3", "buffer.size=300", "players.fragment_rows=20"],
            "buffer.size=300: a shard of 2 takes up to 160 rows a round; use at least 320",
        ),
    ],
)
def test_a_replay_that_can_not_be_shared_out(algorithm, overrides, said):
    (mistake,) = mistakes_of(algorithm, "buffer.shards=2", *overrides)
    assert said in mistake


def test_shards_that_fit():
    overrides = ["buffer.shards=2", "players.num=3", "buffer.size=320", "players.fragment_rows=20"]
    config = check(load_config("sac", overrides).model_dump(mode="json")).config
    assert config.buffer.shards == 2
