"""Test the family of MiniGrid."""

import pytest

from sheeprl.envs.make import EnvSettingsError, is_of_known_family
from tests.envs.families.checks import (
    assert_a_snapshot_is_exact,
    assert_equal_seeds_give_equal_episodes,
    config_of,
    make,
)

pytest.importorskip("minigrid")


@pytest.mark.parametrize("env_id", ["MiniGrid-DoorKey-5x5-v0", "BabyAI-GoToObj-v0"])
def test_worlds_are_reproducible_and_saved(env_id):
    """Equal seeds give equal episodes, and a snapshot is exact."""
    config = config_of(env_id, "ImgObsWrapper")
    assert make(config.id, "ImgObsWrapper").observation_space.shape == (7, 7, 3)
    assert_equal_seeds_give_equal_episodes(config)
    assert_a_snapshot_is_exact(config, before=30, after=60)
    assert is_of_known_family(config)


def test_wrappers_have_short_names_and_arguments():
    """Wrappers of MiniGrid have short names and arguments."""
    env = make("MiniGrid-Empty-5x5-v0", {"path": "RGBImgPartialObsWrapper", "tile_size": 4}, "ImgObsWrapper")
    assert env.observation_space.shape == (28, 28, 3)
    env = make("MiniGrid-Empty-5x5-v0", {"path": "FilterObservation", "filter_keys": ["image", "direction"]})
    assert set(env.observation_space) == {"image", "direction"}
    with pytest.raises(EnvSettingsError, match=r"env\.wrappers=ImgObsWrapper: isn't a wrapper"):
        make("CartPole-v1", "ImgObsWrapper")
