"""Test the family of Crafter."""

import pytest

from sheeprl.envs.families.crafter import _OrderedSet
from tests.envs.families.checks import (
    assert_a_snapshot_is_exact,
    assert_equal_seeds_give_equal_episodes,
    config_of,
    make,
)


def test_a_set_keeps_the_order_of_its_additions():
    """A set preserves the order of its additions."""
    items = _OrderedSet()
    for item in "cab":
        items.add(item)
    items.remove("a")
    assert list(items) == ["c", "b"] and len(items) == 2


def test_a_world_is_reproducible_and_saved():
    """Equal seeds give equal worlds, and a snapshot is exact."""
    pytest.importorskip("crafter")
    config = config_of("Crafter/Reward-v1", area=[24, 24], size=[36, 45])
    assert make(config.id, **config.kwargs).observation_space.shape == (36, 45, 3)
    assert_equal_seeds_give_equal_episodes(config)
    assert_a_snapshot_is_exact(config, before=15, after=25)


def test_achievements_are_numbers_of_the_info():
    """The info contains achievements as numbers."""
    pytest.importorskip("crafter")
    env = make("Crafter/NoReward-v1", area=[16, 16], length=3)
    env.reset(seed=0)
    steps = [env.step(0) for _ in range(3)]
    assert [step[1] for step in steps] == [0.0] * 3
    assert [step[3] for step in steps] == [False, False, True]
    info = steps[-1][-1]
    assert len(info["achievements"]) == 22 and info["achievement_count"] == sum(info["achievements"].values())
