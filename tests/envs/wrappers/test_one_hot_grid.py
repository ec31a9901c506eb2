"""Test the one-hot grid of MiniGrid."""

import numpy as np
import pytest

from sheeprl.envs.config import EnvConfig
from sheeprl.envs.make import EnvSettingsError, make_env


def test_every_cell_has_one_kind_one_color_and_one_state():
    """The one-hot parts encode the numbers of the plain observation."""
    pytest.importorskip("minigrid")
    plain = make_env(EnvConfig(id="MiniGrid-DoorKey-5x5-v0", wrappers=("ImgObsWrapper",)))
    env = make_env(EnvConfig(id="MiniGrid-DoorKey-5x5-v0", wrappers=("one_hot_grid",)))
    numbers, grid = plain.reset(seed=3)[0], env.reset(seed=3)[0]
    assert env.observation_space.contains(grid) and set(np.unique(grid)) == {0, 255}
    first = 0
    for place, size in enumerate(env.sizes):
        part = grid[..., first : first + size]
        assert (part.argmax(-1) == numbers[..., place]).all() and (part.sum(-1, dtype=int) == 255).all()
        first += size
    assert first == grid.shape[-1] == 20


def test_other_observations_are_refused():
    """An environment without MiniGrid's picture is refused."""
    pytest.importorskip("minigrid")
    with pytest.raises(EnvSettingsError, match="needs observations of MiniGrid"):
        make_env(EnvConfig(id="CartPole-v1", wrappers=("one_hot_grid",)))
