"""Test the preprocessing of Atari games with a fake emulator, whose pixels are the number of the frame."""

import numpy as np
import pytest

from sheeprl.envs.config import EnvConfig
from sheeprl.envs.make import EnvSettingsError, make_env

GAME = "tests.helpers.wrapped_envs:FakeGame-v0"


def make(game=None, **arguments):
    """Return a fake game with the preprocessing."""
    plain = {"screen_size": 2, "noop_max": 0, "fire_reset": False}
    return make_env(EnvConfig(id=GAME, kwargs=game or {}, wrappers=({"path": "atari", **plain, **arguments},)))


def test_an_observation_is_the_maximum_of_the_last_two_frames():
    """An observation is the maximum of the last two frames."""
    env = make({"dark": [4]}, frame_stack=1)
    assert env.reset(seed=0)[0].tolist() == [[0, 0], [0, 0]]
    obs, reward, *_ = env.step(2)
    assert (obs == 3).all() and reward == 1.0  # frame 4 is dark; four rewards of 2, clipped
    assert (env.step(2)[0] == 8).all()
    assert env.unwrapped.actions == ["reset", *[2] * 8]


def test_frames_are_stacked_and_may_have_colors():
    """Frames are stacked, in grayscale or in color."""
    env = make(frame_stack=3)
    env.reset(seed=0)
    assert [int(frame[0, 0]) for frame in env.step(0)[0]] == [0, 0, 4]
    env = make(frame_stack=2, grayscale=False)
    env.reset(seed=0)
    obs = env.step(0)[0]
    assert obs.shape == (2, 2, 2, 3) and obs[1, 0, 0].tolist() == [4, 0, 0]
    assert env.observation_space.contains(obs)


def test_no_ops_begin_a_game():
    """A random number of no-ops begins a game."""
    env = make(noop_max=3, frame_stack=1)
    counts = {int(env.reset(seed=seed)[0][0, 0]) for seed in range(20)}
    assert counts == {1, 2, 3}
    assert set(env.unwrapped.actions) == {"reset", 0}


def test_fire_is_pressed_after_a_reset():
    """A reset presses FIRE."""
    env = make(fire_reset=True, frame_stack=1)
    assert (env.reset(seed=0)[0] == 4).all()
    assert env.unwrapped.actions == ["reset", 1, 1, 1, 1]


def test_the_true_return_is_in_the_last_info():
    """The last info contains the return without clipping."""
    env = make()
    env.reset(seed=0)
    steps = [env.step(0) for _ in range(6)]
    assert [step[1] for step in steps] == [1.0] * 6
    assert [step[2] for step in steps] == [False] * 5 + [True]
    assert steps[-1][-1]["episode"] == {"r": 48.0, "l": 6}
    assert make(clip_reward=False).reset(seed=0) and not any("episode" in step[-1] for step in steps[:-1])


def test_a_lost_life_ends_an_episode_but_not_the_game():
    """A lost life ends the episode but not the game."""
    env = make(life_loss=True, frame_stack=1)
    env.reset(seed=0)
    ends, infos = [], []
    for _ in range(3):
        over = False
        while not over:
            _, _, over, _, info = env.step(2)
        ends.append(env.unwrapped.number)
        infos.append(info)
        env.reset()
    assert ends == [8, 16, 24]
    assert ["episode" in info for info in infos] == [False, False, True]
    assert infos[-1]["episode"]["r"] == 48.0
    assert env.unwrapped.actions.count("reset") == 2


def test_a_seed_begins_a_new_game_after_a_lost_life():
    """A reset with a seed begins a new game after a lost life."""
    env = make(life_loss=True)
    env.reset(seed=0)
    env.step(0), env.step(0)
    env.reset(seed=1)
    assert env.unwrapped.actions.count("reset") == 2 and env.unwrapped.number == 0


def test_a_game_that_skips_frames_is_refused():
    """A game that skips frames itself is refused."""
    with pytest.raises(EnvSettingsError, match=r"the game skips frames itself \(frameskip=4\); set env.kwargs.frames"):
        make({"frameskip": 4})
    assert make(frame_skip=1, frame_stack=1, clip_reward=False).reset(seed=0)[0].dtype == np.uint8
