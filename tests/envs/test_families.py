"""The environments of the optional packages can be made and trained on; a package that is missing skips its tests."""

import ctypes.util
import importlib.util
import os
import shutil
import subprocess
import sys

import pytest

from sheeprl import ConfigError
from sheeprl.utils.installation import install_command
from tests.helpers.runs import QUIET, SMALL_SAC, lines, run

pytestmark = pytest.mark.slow

COUPLED = ["run.mode=coupled", "trainer.compile=false", "checkpoint.envs=false"]
PPO = ["algo.rollout_steps=32", "algo.epochs=1", "algo.hidden_sizes=[8]", "run.total_steps=100"]
SAC = ["run.total_steps=100"]
RAM = "env.kwargs={obs_type: ram}"
FLAT = "env.wrappers=[FlatObsWrapper]"

TRAINED = [  # extra, package, algorithm, id, settings
    ("classic", "pygame", "ppo", "CartPole-v1", ["env.vectorization=native"]),
    ("classic", "pygame", "ppo", "FrozenLake-v1", []),
    ("mujoco", "mujoco", "sac", "HalfCheetah-v5", []),
    ("mujoco", "mujoco", "ppo", "Humanoid-v5", []),
    ("dmc", "dm_control", "sac", "dm_control/cartpole-swingup-v0", []),
    ("dmc", "dm_control", "ppo", "dm_control/walker-walk-v0", []),
    ("atari", "ale_py", "ppo", "ALE/Pong-v5", [RAM]),
    ("atari", "ale_py", "ppo", "ALE/Pong-v5", ["env.wrappers=[atari]"]),
    ("box2d", "Box2D", "ppo", "LunarLander-v3", []),
    ("box2d", "Box2D", "sac", "BipedalWalker-v3", []),
    ("minigrid", "minigrid", "ppo", "MiniGrid-Empty-5x5-v0", [FLAT]),
    ("minatar", "minatar", "ppo", "MinAtar/Breakout-v1", []),
    ("crafter", "crafter", "ppo", "Crafter/Reward-v1", []),
    ("dmc", "dm_control", "sac", "dm_control/cartpole-swingup-v0", ["env.wrappers=[action_repeat]"]),
]
REFUSED = [  # extra, package, algorithm, id, part of the message
    ("atari", "ale_py", "td3", "ALE/Pong-v5", "are pixels of shape (210, 160, 3); td3 needs vector observations"),
    ("box2d", "Box2D", "droq", "CarRacing-v3", "are pixels of shape (96, 96, 3); droq needs vector observations"),
    ("minigrid", "minigrid", "ppo", "MiniGrid-Empty-5x5-v0", "has no vector form"),
]


def need(extra, package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed; {install_command(extra)}")


@pytest.mark.parametrize(("extra", "package", "algorithm", "env", "settings"), TRAINED)
def test_an_environment_of_each_family_is_trained_on(tmp_path, recwarn, extra, package, algorithm, env, settings):
    need(extra, package)
    small = PPO if algorithm == "ppo" else SAC
    result = run(tmp_path / "run", algorithm, *COUPLED, *small, *settings, "eval.episodes=0", env=env)
    assert result.gradient_steps > 0
    assert lines(result.run_dir)[-1]["status"] == "done"
    assert not [str(warned.message) for warned in recwarn if "DISPLAY" in str(warned.message)]


@pytest.mark.parametrize(("extra", "package", "algorithm", "env", "said"), REFUSED)
def test_pixels_and_texts_are_refused(tmp_path, extra, package, algorithm, env, said):
    need(extra, package)
    with pytest.raises(ConfigError) as caught:
        run(tmp_path / "run", algorithm, *COUPLED, env=env)
    assert any(said in mistake for mistake in caught.value.mistakes), caught.value.mistakes
    assert not (tmp_path / "run").exists()


@pytest.mark.timeout(600)  # two processes that import everything and write videos
@pytest.mark.parametrize(
    ("extra", "package", "env"),
    [("mujoco", "mujoco", "HalfCheetah-v5"), ("dmc", "dm_control", "dm_control/cartpole-swingup-v0")],
)
def test_mujoco_is_filmed_without_a_display(tmp_path, extra, package, env):
    need(extra, package)
    need("video", "moviepy")
    if ctypes.util.find_library("EGL") is None:
        pytest.skip("libEGL is not installed")
    variables = {name: value for name, value in os.environ.items() if "DISPLAY" not in name and name != "MUJOCO_GL"}
    words = ["sac", f"env.id={env}", "env.capture_video=true", *COUPLED, *SAC, *SMALL_SAC, *QUIET]
    # Short videos, and no time limit: the step that ends an episode also writes its video, which takes long on a busy
    # machine.
    words += ["env.max_episode_steps=20", "players.step_timeout=null"]
    command = [sys.executable, "-m", "sheeprl", "run", *words, f"run.dir={tmp_path / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "GLFW" not in done.stderr
    videos = tmp_path / "run" / "videos"
    assert list(videos.glob("*.mp4"))
    command = [sys.executable, "-m", "sheeprl", "eval", str(tmp_path / "run"), "--episodes", "2", "--video"]
    shutil.rmtree(videos)
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(videos.glob("*.mp4"))
