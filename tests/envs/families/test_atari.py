"""Test the family of Atari games."""

from contextlib import closing

import numpy as np
import pytest

from sheeprl.envs.config import EnvConfig
from sheeprl.envs.make import EnvSettingsError, is_of_known_family, make_vector_env
from sheeprl.envs.results import EPISODE, split_statistics
from tests.envs.families.checks import (
    assert_a_snapshot_is_exact,
    assert_equal_seeds_give_equal_episodes,
    config_of,
    make,
)

pytest.importorskip("ale_py")


def test_a_game_is_as_registered_without_the_preprocessing():
    """Without the preprocessing, a game is as registered."""
    config = config_of("ALE/Pong-v5")
    assert make(config.id).observation_space.shape == (210, 160, 3)
    assert_a_snapshot_is_exact(config, before=5, after=5)


def test_the_preprocessing():
    """The preprocessing sets frame size, stack and lives."""
    config = config_of("ALE/Breakout-v5", {"path": "atari", "life_loss": True})
    env = make(config.id, "atari")
    assert env.observation_space.shape == (4, 84, 84) and env.observation_space.dtype == np.uint8
    assert env.unwrapped._frameskip == 1
    assert_equal_seeds_give_equal_episodes(config, steps=60)
    assert_a_snapshot_is_exact(config, before=40, after=40)
    assert is_of_known_family(config)


def test_the_native_vector_counts_games():
    """The native vector environment counts games, not lives."""
    config = EnvConfig(
        id="ALE/Breakout-v5",
        num_envs=2,
        vectorization="native",
        wrappers=({"path": "atari", "screen_size": 20},),
    )
    rng = np.random.default_rng(0)
    with closing(make_vector_env(config)) as envs:
        assert envs.single_observation_space.shape == (4, 20, 20)
        envs.reset(seed=0)
        counted, ends, rewards = [], 0, []
        for _ in range(400):
            _, reward, terminated, truncated, infos = envs.step(rng.integers(0, 4, 2))
            rewards.append(reward.max())
            ends += int((terminated | truncated).sum())
            for pairs in infos.get(EPISODE, ()):
                statistics, _ = split_statistics(pairs or ())
                counted += [statistics] if statistics is not None and statistics[0] >= 0 else []
    assert set(rewards) <= {0.0, 1.0}
    assert counted and all(length > 20 for _, length in counted)
    assert ends == len(counted)


def test_unsupported_settings_of_the_native_vector_are_named():
    """The error names settings that the native vector environment doesn't support."""
    native = {"id": "ALE/Pong-v5", "vectorization": "native"}
    with pytest.raises(EnvSettingsError, match=r"env\.wrappers: wrap single environments"):
        make_vector_env(EnvConfig(**native, wrappers=("atari", "reward_as_observation")))
    with pytest.raises(EnvSettingsError, match=r"env\.wrappers=atari: has no argument 'stack'; use noop_max, "):
        make_vector_env(EnvConfig(**native, wrappers=({"path": "atari", "stack": 3},)))
    with pytest.raises(EnvSettingsError, match=r"with life_loss=true, .* use env\.vectorization=sync or async"):
        make_vector_env(EnvConfig(**native, wrappers=({"path": "atari", "life_loss": True},)))
    with pytest.raises(EnvSettingsError, match=r"frame_stack must be at least 2 with env\.vectorization=native"):
        make_vector_env(EnvConfig(**native, wrappers=({"path": "atari", "frame_stack": 1},)))
