"""Test the one-hot grid of MiniGrid."""

import sys
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest

from sheeprl.envs.config import EnvConfig
from sheeprl.envs.make import EnvSettingsError, make_env
from sheeprl.envs.wrappers.one_hot_grid import OneHotGrid


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


def test_the_message_shows_a_long_space_in_one_line(monkeypatch):
    """The message of a refused space is short."""
    constants = SimpleNamespace(OBJECT_TO_IDX={}, COLOR_TO_IDX={}, STATE_TO_IDX={})
    for name in ("minigrid", "minigrid.core", "minigrid.core.constants"):
        monkeypatch.setitem(sys.modules, name, constants)
    with pytest.raises(ValueError, match="needs observations of MiniGrid") as caught:
        OneHotGrid(gymnasium.make("CartPole-v1"))
    assert "\n" not in str(caught.value) and "  " not in str(caught.value)
