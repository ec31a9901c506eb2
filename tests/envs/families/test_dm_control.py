"""Test the family of the DeepMind Control Suite."""

import ctypes.util

import numpy as np
import pytest

from sheeprl.envs.make import EnvSettingsError, is_of_known_family
from tests.envs.families.checks import (
    assert_a_snapshot_is_exact,
    assert_equal_seeds_give_equal_episodes,
    config_of,
    make,
)

pytest.importorskip("dm_control")
needs_egl = pytest.mark.skipif(ctypes.util.find_library("EGL") is None, reason="libEGL is not installed")


@pytest.mark.parametrize("task", ["walker-walk", "reacher-easy", "ball_in_cup-catch"])
def test_states_are_reproducible_and_saved(task):
    """Equal seeds give equal episodes, and a snapshot is exact."""
    config = config_of(f"dm_control/{task}-v0")
    assert_equal_seeds_give_equal_episodes(config)
    assert_a_snapshot_is_exact(config)
    assert is_of_known_family(config)


def test_an_episode_is_truncated_at_the_time_limit():
    """An episode is truncated at the time limit."""
    env = make("dm_control/cartpole-swingup-v0", task_kwargs={"time_limit": 0.05})
    observations = [env.reset(seed=0)[0], *(env.step(env.action_space.sample()) for _ in range(5))]
    assert [step[2:4] for step in observations[1:]] == [(False, False)] * 4 + [(False, True)]
    assert not np.array_equal(env.reset(seed=1)[0]["position"], observations[0]["position"])


@needs_egl
def test_pixels_alone_and_with_states():
    """Observations are pixels, or pixels with states."""
    env = make("dm_control/cartpole-swingup-v0", pixels=True, size=[24, 32])
    obs, _ = env.reset(seed=0)
    assert obs.shape == (24, 32, 3) and obs.dtype == np.uint8 and obs.std() > 0
    env.close()
    env = make("dm_control/cartpole-swingup-v0", pixels=True, states=True, size=16)
    obs, _ = env.reset(seed=0)
    assert set(obs) == {"position", "velocity", "pixels"} and obs["pixels"].shape == (16, 16, 3)
    env.close()


def test_an_empty_observation_is_refused():
    """An observation without pixels and states is refused."""
    with pytest.raises(EnvSettingsError, match="pixels=false and states=false: an observation needs one of them"):
        make("dm_control/cartpole-swingup-v0", states=False)
