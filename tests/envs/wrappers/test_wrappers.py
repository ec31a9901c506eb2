"""Test the wrappers against values computed by hand."""

from contextlib import closing

import numpy as np
import pytest
from gymnasium import spaces

from sheeprl.envs.config import EnvConfig
from sheeprl.envs.make import EnvSettingsError, make_env

SCRIPTED = "tests.helpers.wrapped_envs:Scripted-v0"


def make(*wrappers, **kwargs):
    """Return a scripted environment with wrappers."""
    return make_env(EnvConfig(id=SCRIPTED, kwargs=kwargs, wrappers=wrappers))


def episode(env, actions):
    """Return the observations and the other results of an episode's beginning."""
    with closing(env):
        observations = [env.reset(seed=0)[0]]
        steps = [env.step(action) for action in actions]
    assert all(env.observation_space.contains(obs) for obs in [*observations, *(step[0] for step in steps)])
    return observations + [step[0] for step in steps], [step[1:] for step in steps]


def test_action_repeat_sums_rewards_and_stops_at_the_end():
    """`action_repeat` sums rewards and stops at the end of the episode."""
    env = make({"path": "action_repeat", "amount": 3})
    observations, steps = episode(env, [2, 1])
    assert [obs[0] for obs in observations] == [0, 3, 5]
    assert [step[:2] for step in steps] == [(1.0 - 2.0 + 3.0, False), (0.5 + 4.0, True)]
    assert env.unwrapped.received == [2, 2, 2, 1, 1]


def test_frame_stack_repeats_the_first_observation():
    """`frame_stack` repeats the first observation."""
    observations, _ = episode(make({"path": "frame_stack", "stack_size": 3}), [0, 0, 0])
    assert [obs[:, 0].tolist() for obs in observations] == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]]
    assert observations[0].shape == (3, 2) and observations[0].dtype == np.float32


def test_frame_stack_with_dilation():
    """`frame_stack` with a dilation skips observations."""
    observations, _ = episode(make({"path": "frame_stack", "stack_size": 3, "dilation": 2}), [0] * 5)
    assert observations[5][:, 0].tolist() == [1, 3, 5]
    assert observations[2][:, 0].tolist() == [0, 0, 2]


def test_frame_stack_of_the_pictures_of_a_dict():
    """`frame_stack` stacks the pictures of a dict."""
    env = make({"path": "frame_stack", "stack_size": 2}, kind="dict")
    assert {name: part.shape for name, part in env.observation_space.items()} == {
        "camera": (2, 2, 2, 3),
        "state": (2,),
    }
    observations, _ = episode(env, [0])
    assert observations[1]["camera"][:, 0, 0, 0].tolist() == [0, 10]
    observations, _ = episode(make({"path": "frame_stack", "stack_size": 2, "keys": ["state"]}, kind="dict"), [0])
    assert observations[1]["state"].tolist() == [[0, 0], [1, -1]] and observations[1]["camera"].shape == (2, 2, 3)


def test_mask_velocities_of_known_and_other_environments():
    """`mask_velocities` masks known environments and refuses others."""
    masked = make_env(EnvConfig(id="CartPole-v1", wrappers=("mask_velocities",)))
    plain = make_env(EnvConfig(id="CartPole-v1"))
    one, other = masked.reset(seed=0)[0], plain.reset(seed=0)[0]
    assert one.tolist() == [other[0], 0.0, other[2], 0.0]
    observations, _ = episode(make({"path": "mask_velocities", "indices": [0]}), [0])
    assert observations[1].tolist() == [0, -1]


def test_reward_as_observation():
    """`reward_as_observation` adds the last reward."""
    observations, steps = episode(make("reward_as_observation"), [0, 0])
    assert [obs["reward"].tolist() for obs in observations] == [[0], [1], [-2]]
    assert observations[1]["obs"].tolist() == [1, -1] and steps[1][0] == -2.0
    observations, _ = episode(make({"path": "reward_as_observation", "key": "last"}, kind="dict"), [0])
    assert observations[1].keys() == {"state", "camera", "last"}


def test_actions_as_observation_one_hot():
    """`actions_as_observation` adds the last actions as one-hot vectors."""
    observations, _ = episode(make({"path": "actions_as_observation", "num_actions": 2}), [2, 1])
    assert [obs["actions"].tolist() for obs in observations] == [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 1],
        [0, 0, 1, 0, 1, 0],
    ]
    observations, _ = episode(make({"path": "actions_as_observation", "noop": 1}), [])
    assert observations[0]["actions"].tolist() == [0, 1, 0]


def test_actions_as_observation_with_dilation_and_other_kinds():
    """`actions_as_observation` supports a dilation and other action spaces."""
    wrapper = {"path": "actions_as_observation", "num_actions": 2, "dilation": 2}
    observations, _ = episode(make(wrapper), [0, 1, 2])
    assert observations[3]["actions"].tolist() == [1, 0, 0, 0, 0, 1]
    observations, _ = episode(make("actions_as_observation", actions="multi"), [np.array([1, 2])])
    assert observations[1]["actions"].tolist() == [0, 1, 0, 0, 1]
    observations, _ = episode(make("actions_as_observation", actions="binary"), [np.array([1, 0], np.int8)])
    assert observations[1]["actions"].tolist() == [1, 0]
    env = make("actions_as_observation", actions="box")
    assert env.observation_space["actions"].high.tolist() == [2, 2]
    observations, _ = episode(env, [np.array([0.5, -2.0], np.float32)])
    assert observations[1]["actions"].tolist() == [0.5, -2.0]


def test_action_mask_moves_into_the_observation():
    """`action_mask` moves the mask from the info to the observation."""
    env = make("action_mask", masks=True)
    assert env.observation_space["action_mask"] == spaces.MultiBinary(3)
    observations, _ = episode(env, [0])
    assert [obs["action_mask"].tolist() for obs in observations] == [[1, 1, 0], [1, 1, 1]]
    assert observations[1]["obs"].tolist() == [1, -1]
    observations, _ = episode(make("action_mask", masks=True, actions="multi"), [])
    assert observations[0]["action_mask"].tolist() == [1, 0, 1, 1, 0]


def test_a_missing_action_mask_is_named():
    """The error names a missing action mask."""
    with pytest.raises(ValueError, match="the info has no 'action_mask'; its keys are \\[\\]"):
        make("action_mask").reset(seed=0)


def test_episode_statistics():
    """`episode_statistics` adds return and length to the last info."""
    _, steps = episode(make("episode_statistics"), [0] * 5)
    assert [step[-1] for step in steps] == [{}, {}, {}, {}, {"episode": {"r": 6.5, "l": 5}}]


@pytest.mark.parametrize(
    ("arguments", "rewards"),
    [({}, [1, -1, 1, 1, 1]), ({"low": -1.5, "high": 2.0}, [1, -1.5, 2, 0.5, 2]), ({"high": 0.0}, [0, -2, 0, 0, 0])],
)
def test_clip_reward_leaves_the_true_return(arguments, rewards):
    """`clip_reward` leaves the return in the info unclipped."""
    _, steps = episode(make({"path": "clip_reward", **arguments}), [0] * 5)
    assert [step[0] for step in steps] == rewards
    assert steps[-1][-1]["episode"] == {"r": 6.5, "l": 5}


def test_wrappers_of_gymnasium_by_name():
    """Wrappers of Gymnasium are found by name."""
    env = make({"path": "time_limit", "max_episode_steps": 2}, {"path": "TimeAwareObservation", "flatten": False})
    observations, steps = episode(env, [0, 0])
    assert [int(obs["time"][0]) for obs in observations] == [0, 1, 2]
    assert [step[2] for step in steps] == [False, True]
    env = make({"path": "rescale_action", "min_action": -1.0, "max_action": 1.0}, actions="box")
    env.reset(seed=0)
    env.step(np.array([0.5, -1.0], np.float32))
    assert env.unwrapped.received == [[1.0, -2.0]]


def test_sticky_actions_repeat_the_last_action():
    """`sticky_actions` repeats the last action with its probability."""
    env = make({"path": "sticky_actions", "repeat_action_probability": 0.5}, rewards=[0.0] * 101)
    episode(env, [step % 3 for step in range(100)])
    repeated = sum(received != step % 3 for step, received in enumerate(env.unwrapped.received))
    assert 30 < repeated < 70


def test_the_path_of_a_wrapper_may_have_arguments():
    """A wrapper given by its path takes arguments."""
    env = make({"path": "sheeprl.envs.wrappers.frame_stack:FrameStack", "stack_size": 5})
    assert env.observation_space.shape == (5, 2)


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        ("frame_stak", "env.wrappers=frame_stak: isn't a wrapper; did you mean frame_stack?"),
        ("nothing", "env.wrappers=nothing: isn't a wrapper; write package.module:Class or a short name"),
        (
            {"path": "frame_stack", "stack": 3},
            "unexpected keyword argument 'stack'; its arguments are stack_size, dilation, keys (given",
        ),
        ({"path": "frame_stack", "stack_size": 0}, "stack_size=0, dilation=1: must be at least 1"),
        ({"path": "frame_stack", "keys": ["a"]}, "keys=['a']: the observation is a Box, not a Dict"),
        ({"path": "action_repeat", "amount": 0}, "amount=0: must be at least 1"),
        ({"path": "mask_velocities"}, "the velocities of Scripted aren't known; set indices=[…]"),
        ({"path": "mask_velocities", "indices": [2]}, "indices=[2]: the observation has 2 elements"),
        ("grayscale", "the observation is float32 of shape (2,), not RGB bytes [H, W, 3]"),
        ("atari", "isn't a game of ale-py; use an id such as ALE/Pong-v5"),
        ({"path": "clip_reward", "low": 1, "high": 0}, "low=1 exceeds high=0"),
    ],
)
def test_mistakes_are_named(wrapper, message):
    """The error names the mistake in a wrapper's arguments."""
    with pytest.raises(EnvSettingsError) as caught:
        make(wrapper)
    assert message in str(caught.value)


def test_a_key_that_does_not_exist_is_named():
    """The error names a missing or duplicate observation key."""
    with pytest.raises(EnvSettingsError, match=r"the observation has the keys \['camera', 'state'\], not 'image'"):
        make({"path": "frame_stack", "keys": ["image"]}, kind="dict")
    with pytest.raises(EnvSettingsError, match=r"the observation has a key 'state' already"):
        make({"path": "reward_as_observation", "key": "state"}, kind="dict")
    with pytest.raises(EnvSettingsError, match="the observation is a Discrete, not a Box"):
        make("frame_stack", kind="choice")
