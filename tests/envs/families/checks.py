"""Checks that the environments of every family must pass."""

import numpy as np

from sheeprl.envs.config import EnvConfig
from sheeprl.envs.make import make_env, make_snapshot_env


def flat(value):
    """Return a value as bytes."""
    if isinstance(value, dict):
        return b"".join(flat(value[name]) for name in sorted(value))
    return np.asarray(value).tobytes()


def config_of(env_id, *wrappers, **kwargs):
    """Return the configuration of an environment."""
    return EnvConfig(id=env_id, kwargs=kwargs, wrappers=wrappers)


def make(env_id, *wrappers, **kwargs):
    """Return an environment."""
    return make_env(config_of(env_id, *wrappers, **kwargs))


def assert_equal_seeds_give_equal_episodes(config, steps=20):
    """Check that two instances with the same seed and actions return the same, which fits the spaces."""
    envs = [make_env(config) for _ in range(2)]
    observations = [env.reset(seed=3)[0] for env in envs]
    assert envs[0].observation_space.contains(observations[0])
    assert flat(observations[0]) == flat(observations[1])
    envs[0].action_space.seed(0)
    for _ in range(steps):
        action = envs[0].action_space.sample()
        one, other = (env.step(action) for env in envs)
        assert envs[0].observation_space.contains(one[0])
        assert flat(one[0]) == flat(other[0]) and one[1:4] == other[1:4]
        if one[2] or one[3]:
            assert flat(envs[0].reset()[0]) == flat(envs[1].reset()[0])
    for env in envs:
        env.close()


def assert_a_snapshot_is_exact(config, before=10, after=20):
    """Check that a restored copy continues in the same way, also in the next episode."""
    one, other = make_snapshot_env(config), make_snapshot_env(config)
    one.reset(seed=1)
    other.reset(seed=2)
    one.action_space.seed(0)
    for _ in range(before):
        one.resets_itself = one.ended
        one.step(one.action_space.sample())
    other.snapshot = one.snapshot
    one.resets_itself = one.ended
    for _ in range(after):
        action = one.action_space.sample()
        (obs, *rest), (copied, *others) = one.step(action), other.step(action)
        assert flat(obs) == flat(copied) and str(rest) == str(others)
        one.resets_itself, other.resets_itself = one.ended, other.ended
    assert flat(one.reset()[0]) == flat(other.reset()[0])
    one.close()
    other.close()
