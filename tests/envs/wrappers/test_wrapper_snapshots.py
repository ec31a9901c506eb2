"""Test that snapshots include the state of every wrapper."""

import gymnasium
import numpy as np
import pytest

from sheeprl.envs.config import EnvConfig
from sheeprl.envs.make import make_snapshot_env
from sheeprl.envs.wrappers import SHORT_NAMES

SCRIPTED, GAME = "tests.helpers.wrapped_envs:Scripted-v0", "tests.helpers.wrapped_envs:FakeGame-v0"
ATARI = {"path": "atari", "screen_size": 2, "noop_max": 5, "life_loss": True}
CASES = [  # short name, id, arguments of the environment, wrappers
    ("action_mask", SCRIPTED, {"masks": True}, ["action_mask"]),
    ("action_repeat", SCRIPTED, {}, [{"path": "action_repeat", "amount": 2}]),
    ("actions_as_observation", SCRIPTED, {}, [{"path": "actions_as_observation", "num_actions": 2, "dilation": 2}]),
    ("atari", GAME, {"life": 30}, [ATARI]),
    ("clip_reward", SCRIPTED, {}, ["clip_reward"]),
    ("episode_statistics", SCRIPTED, {}, ["episode_statistics"]),
    ("frame_stack", SCRIPTED, {"kind": "dict"}, [{"path": "frame_stack", "stack_size": 3, "dilation": 2}]),
    ("grayscale", SCRIPTED, {"kind": "picture"}, ["grayscale"]),
    ("mask_velocities", SCRIPTED, {}, [{"path": "mask_velocities", "indices": [1]}]),
    ("one_hot_grid", "MiniGrid-DoorKey-5x5-v0", {}, ["one_hot_grid"]),
    (
        "rescale_action",
        SCRIPTED,
        {"actions": "box"},
        [{"path": "rescale_action", "min_action": -1.0, "max_action": 1.0}],
    ),
    ("resize", SCRIPTED, {"kind": "picture"}, [{"path": "resize", "size": 5}]),
    ("reward_as_observation", SCRIPTED, {}, ["reward_as_observation"]),
    (
        "sticky_actions",
        SCRIPTED,
        {},
        ["actions_as_observation", {"path": "sticky_actions", "repeat_action_probability": 0.5}],
    ),
    ("time_aware_observation", SCRIPTED, {}, [{"path": "time_limit", "max_episode_steps": 4}, "TimeAwareObservation"]),
    ("time_limit", SCRIPTED, {}, [{"path": "time_limit", "max_episode_steps": 4}]),
]


def flat(value):
    """Return a value as bytes."""
    if isinstance(value, dict):
        return b"".join(flat(value[name]) for name in sorted(value))
    return np.asarray(value).tobytes()


def test_every_wrapper_has_a_case():
    """Every wrapper has a case."""
    assert {case[0] for case in CASES} == set(SHORT_NAMES)


@pytest.mark.parametrize("before", [3, 12])
@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_a_restored_copy_continues_in_the_same_way(case, before):
    """A restored copy continues identically."""
    _, env_id, kwargs, wrappers = case
    if env_id.startswith("MiniGrid"):
        pytest.importorskip("minigrid")
    kwargs = {"rewards": [0.5, -1.0, 2.0, -3.0, 4.0, 0.0, 1.0]} | kwargs if env_id == SCRIPTED else kwargs
    config = EnvConfig(id=env_id, kwargs=kwargs, wrappers=tuple(wrappers))
    one, other = make_snapshot_env(config), make_snapshot_env(config)
    actions: gymnasium.Space = one.action_space
    actions.seed(0)
    one.reset(seed=1)
    other.reset(seed=2)
    other.step(actions.sample())
    for _ in range(before):
        one.resets_itself = one.ended
        one.step(actions.sample())
    other.snapshot = one.snapshot
    one.resets_itself = one.ended
    for _ in range(40):
        action = actions.sample()
        (obs, *rest), (copied, *others) = one.step(action), other.step(action)
        assert flat(obs) == flat(copied) and str(rest) == str(others)
        one.resets_itself, other.resets_itself = one.ended, other.ended
