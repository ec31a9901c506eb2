"""Test the family of MinAtar."""

import numpy as np
import pytest

from sheeprl.envs.make import is_of_known_family
from tests.envs.families.checks import (
    assert_a_snapshot_is_exact,
    assert_equal_seeds_give_equal_episodes,
    config_of,
    make,
)

pytest.importorskip("minatar")


@pytest.mark.parametrize(
    ("game", "channels", "actions"),
    [("Asterix", 4, 5), ("Breakout", 4, 3), ("Freeway", 7, 3), ("Seaquest", 10, 6), ("SpaceInvaders", 6, 4)],
)
def test_games_return_bytes_and_are_reproducible(game, channels, actions):
    """Observations are bytes, and equal seeds give equal episodes."""
    config = config_of(f"MinAtar/{game}-v1")
    env = make(config.id)
    assert env.observation_space.shape == (10, 10, channels) and env.observation_space.dtype == np.uint8
    assert env.action_space.n == actions and make(f"MinAtar/{game}-v0").action_space.n == 6
    assert set(np.unique(env.reset(seed=0)[0])) == {0, 255}
    assert_equal_seeds_give_equal_episodes(config)
    assert_a_snapshot_is_exact(config)
    assert is_of_known_family(config)


def test_a_game_is_rendered():
    """A game renders RGB pictures."""
    env = make("MinAtar/Breakout-v1", render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (80, 80, 3) and picture.dtype == np.uint8 and len(np.unique(picture)) > 2


def test_arguments_of_the_game_are_passed_on():
    """Arguments are passed to the game."""
    game = make("MinAtar/Breakout-v1", sticky_action_prob=0.0).unwrapped.game
    assert game.sticky_action_prob == 0.0
