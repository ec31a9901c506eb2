"""Test `sheeprl check-env`: it names the mistakes of an environment and the algorithms that fit."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from gymnasium import spaces

from sheeprl.algos import registry
from sheeprl.algos.args import AlgoArgs
from sheeprl.cli.check_env import _start
from sheeprl.cli.flags import Flags
from sheeprl.cli.words import read_words
from sheeprl.envs.config import EnvConfig
from sheeprl.envs.transforms import Spaces

ROOT = Path(__file__).resolve().parents[2]
MODULE = "tests.helpers.broken_envs"
ODD = "tests.helpers.odd_envs"
QUICK = ("--seconds", "0.01", "--num_envs", "2")


@pytest.fixture
def check_env(sheeprl):
    """Runs `check-env` with short measurements."""
    return lambda env, *words: sheeprl("check-env", env if ":" in env else f"{MODULE}:{env}-v0", *QUICK, *words)


CHANGED = "env.kwargs={part: %s, value: %s}"
CUT = "env.kwargs={method: %s, count: %s}"
STEP = "it must return (observation, reward, terminated, truncated, info)"

MISTAKES = [
    (f"{MODULE}:Unregistered-v7", [], "no such environment; the module tests.helpers.broken_envs registers"),
    ("nowhere_envs:Mine-v0", [], "no module named nowhere_envs; install its package"),
    ("NeedsPackage", [], "a_simulator_that_is_missing, which tests.helpers.broken_envs needs, is not installed"),
    ("NeedsArgument", [], "missing 1 required positional argument: 'level'"),
    ("Sound", ["env.kwargs.level=3"], "env.kwargs.level=3: "),
    ("NeedsArgument", ["env.kwargs={levl: 3}"], "has no such argument; did you mean level?"),
    ("Fails", [], "can't be made: OSError: the simulator isn't running"),
    ("Sound", ["env.wrappers=[FrameStak]"], "env.wrappers=FrameStak: isn't a wrapper"),
    (f"{ODD}:Results-v0", [CUT % ("reset", 1)], "Results.reset returned one value (ndarray)"),
    (f"{ODD}:Results-v0", [CUT % ("step", 4)], f"returned 4 values (ndarray, float, bool, bool); {STEP}"),
    (f"{ODD}:StepFails-v0", [], "raised in step 1 of episode 1: ValueError: a value of the environment's own"),
    (f"{ODD}:Varying-v0", ["env.kwargs={vary: shape}"], "its instances have different observation or action spaces"),
    (f"{ODD}:Varying-v0", ["env.kwargs={vary: actions}"], "its instances have different observation or action spaces"),
    (f"{ODD}:OneInstance-v0", [], "only one instance can exist at a time; use env.num_envs=1"),
    (f"{ODD}:EqualKeys-v0", [], "two observation keys have the same text"),
    ("WrongShape", [], "has the shape (3,), which isn't that of"),
    ("LateShape", [], "step 4 of episode 1: the observation has the shape (3,), which isn't that of Box"),
    ("NoNumbers", [], "which isn't in Box"),
    ("Nan", [], "step 5 of episode 1: the observation contains nan; networks need finite numbers"),
    ("Changed", [CHANGED % ("reward", "nan")], "step 2 of episode 1: the reward is nan; training needs finite numbers"),
    ("Changed", [CHANGED % ("reward", "pair")], "the reward is array([1., 1.]) (ndarray), not one number"),
    ("Changed", [CHANGED % ("terminated", "none")], "terminated is None (NoneType), not one boolean"),
    ("NoSeed", [], "TypeError: NoSeed.reset() got an unexpected keyword argument 'seed'"),
    ("Quits", [], "raised in step 1 of episode 1: SystemExit: 3"),
    ("GrowingActions", [], "the action space changes from Discrete(3) to Discrete(4)"),
    ("Hangs", ["--timeout=0.2", "env.kwargs={where: constructor}"], "can't be made: StepTimeoutError: it took more"),
    ("Hangs", ["--timeout=0.2", "env.kwargs={where: reset}"], "reset of episode 1 doesn't end: it took more"),
    ("Hangs", ["--timeout=0.2", "env.kwargs={where: step}"], "doesn't end: it took more than 0.2 s (--timeout)"),
    ("WrongMask", ["env.kwargs.size=2"], "shape (2,), but the action space Discrete(3) has 3 choices"),
    ("WrongMask", [], "step 1 of episode 1: the observation['action_mask'] permits no choice: [0, 0, 0]"),
    ("OddActions", [], "isn't supported; use Discrete, MultiDiscrete, MultiBinary or Box"),
    ("Words", [], "the observation['text'] has the space Text(1, 4"),
    ("OwnSpace", [], "which has no vector form; leave it out with env.wrappers=[{path: FilterObservation"),
    ("Sound", ["--vectorization", "native"], "has no native vector version; use sync or async"),
    ("Sound", ["--seed", "3"], "--seed: isn't a setting of the environment"),
    ("Sound", ["--num_env", "3"], "--num_env: unknown flag; did you mean --num_envs?"),
    ("Sound", ["--timeout", "soon"], "--timeout=soon: must be a positive number of seconds"),
    ("Sound", ["--seconds", "-1"], "--seconds=-1: must be a positive number of seconds"),
    ("Sound", ["--env", "CartPole-v1"], "--env: the environment is tests.helpers.broken_envs:Sound-v0 already"),
]  # fmt: skip
"""Environment and settings that can't be trained with, and a part of the only line."""

WARNINGS = [
    ("Outside", [], "which is outside Box(-1.0, 1.0, (2,), float32)"),
    ("Double", [], "the observation is float64, but its space is float32; each is converted"),
    ("Unchanging", [], "all observations of random play are equal"),
    ("Aliased", [], "each step changes the observation that the previous one returned"),
    ("Changed", [CHANGED % ("reward", "array")], "the reward is array([1.]) (ndarray), not a float; it is converted"),
    ("Changed", [CHANGED % ("info", "none")], "the info is None (NoneType), not a dict; metrics ignore it"),
    ("Unseeded", [], "it isn't deterministic: with the same seed and actions, the observation of the reset differs"),
    ("ProcessWide", [], "it draws from the process's generators (random, numpy.random or torch)"),
    ("Shared", [], "its instances share state: the observation of step 1 differs if another instance takes steps"),
    ("Remembers", [], "reset(seed=…) doesn't restore the start: the observation of the reset differs when the same"),
    ("NoPicture", [], "can't be rendered: RuntimeError: no display"),
    ("Sound", ["env.wrappers=[NormalizeObservation]"], "normalizes by running statistics"),
]
"""Environment and settings that can be trained with, and a part of the warning."""


STUCK = """
import hashlib
import gymnasium
from tests.helpers.broken_envs import Sound

class Stuck(Sound):
    def step(self, action):
        hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)

gymnasium.register("Stuck-v0", "stuck_envs:Stuck")
"""


@pytest.mark.parametrize(("env", "words", "line"), MISTAKES)
def test_a_mistake_is_one_line(check_env, env, words, line):
    """A mistake is one line."""
    done = check_env(env, *words)
    assert (done.code, done.out) == (2, "")
    assert len(done.errors) == 1 and line in done.errors[0]


@pytest.mark.parametrize(("env", "words", "line"), WARNINGS)
def test_an_oddity_is_a_warning(check_env, env, words, line):
    """A suspicious result is a warning."""
    done = check_env(env, *words)
    assert done.code == 0 and "can be trained on" in done.out
    assert [text for text in done.err.splitlines() if line in text and text.startswith("warning: ")]


def test_episodes_that_do_not_end_are_a_warning(check_env, monkeypatch):
    """Episodes that don't end are a warning."""
    monkeypatch.setattr("sheeprl.envs.inspection.LONG", 5)
    assert "random steps and no time limit is known; if episodes never end" in check_env("NeverEnding").err
    assert "no episode ended" not in check_env("NeverEnding", "env.max_episode_steps=500").err


@pytest.mark.parametrize("env", ["Sound", "OnceOnly", "WithMask"])
def test_nothing_is_wrong_with_a_sound_environment(check_env, env):
    """A correct environment has no mistakes and no warnings."""
    done = check_env(env)
    assert (done.code, done.err) == (0, "")
    assert "the same seed gives the same episodes" in done.out and ", length " in done.out


def test_the_state_is_tested_with_permitted_actions(check_env):
    """The test of the state takes permitted actions only, over the ends of episodes."""
    assert "resume       bit-identical with checkpoint.envs=true: the state can be saved" in check_env("WithMask").out


def test_the_report_has_a_dozen_lines(check_env):
    """The report has twelve lines."""
    done = check_env("NoReward", "env.kwargs={}")
    lines = done.out.splitlines()
    first = [line.split("  ")[0] for line in lines[1:]]
    names = ["observation", "action", "random play", "metrics", "seed", "resume", "video", "steps/s", "vectorize"]
    assert first == [*names, "replay", "algorithms", "start with"]
    assert "return 0 (no reward was found), length 7" in done.out
    assert "Episode/success, Episode/success_rate; not shown: winner" in done.out
    assert "bit-identical with checkpoint.envs=true" in done.out and "6 x 8 (env.capture_video" in done.out
    assert re.search(r"algorithms +a2c, .*ppo.*; not .*td3 \(its actions are discrete\)", done.out)
    assert f"start with   sheeprl train ppo --env {MODULE}:NoReward-v0 env.num_envs=2" in done.out


@pytest.mark.parametrize(
    ("env", "fitting", "command"),
    [
        ("MinAtar/Breakout-v1", ["dqn", "ppo"], "sheeprl train ppo_minatar_breakout env.num_envs=2"),
        ("CartPole-v1", ["dqn", "ppo"], "sheeprl train ppo env.num_envs=2"),
        ("Acrobot-v1", ["dqn", "ppo"], "sheeprl train dqn_acrobot env.num_envs=2"),
        ("Mine-v0", ["dqn", "ppo"], "sheeprl train ppo --env Mine-v0 env.num_envs=2"),
    ],
)
def test_a_shipped_configuration_is_recommended_for_its_environment(env, fitting, command):
    """The command to start with names a shipped configuration of the environment."""
    settings = read_words(["env.num_envs=2"], Flags(AlgoArgs), "sheeprl check-env -h")
    found = Spaces(spaces.Box(0, 1, (2,)), spaces.Discrete(2))
    assert _start(EnvConfig(id=env), settings, found, fitting, None) == command


def test_unbounded_actions_exclude_algorithms(check_env):
    """Actions without bounds exclude algorithms."""
    done = check_env("Unlimited")
    assert re.search(r"not [^;]*droq,[^;]* sac.* td3 \(its actions have no bounds\)", done.out)


def test_an_algorithm_that_cannot_be_imported_hides_no_other(check_env, monkeypatch):
    """An algorithm that can't be imported hides no other."""
    monkeypatch.setattr("sheeprl.algos.registry.args_class", broken_args_class(registry.args_class))
    assert re.search(r"algorithms .*\bppo\b.*not .*\ba2c\b.*\(can't be loaded\)", check_env("Sound").out)


def broken_args_class(args_class):
    """Return `registry.args_class` without A2C's package."""

    def find(name):
        """Return the arguments of every algorithm but A2C."""
        if name == "a2c":
            raise ImportError("no module named a2c")
        return args_class(name)

    return find


def test_json_has_all_findings(check_env):
    """The JSON contains all findings."""
    found = json.loads(check_env("NoReward", "--json").out)
    assert found["can_be_trained_on"] and found["is_deterministic"] and found["why_not_saved"] == ""
    assert found["steps_per_second"].keys() == {"single", "sync", "async"}
    assert found["metrics"] == ["success"] and found["algorithms"]["ppo"] == []
    assert found["bytes_per_million_rows"] == (2 * 4 + 8 + 4 + 3) * 10**6


def test_json_has_the_mistakes(check_env):
    """The JSON contains the mistakes."""
    done = check_env("Nan", "--json")
    found = json.loads(done.out)
    assert done.code == 2 and not found["can_be_trained_on"] and "contains nan" in found["mistakes"][0]


@pytest.mark.slow
def test_a_step_that_hangs_in_c_ends_the_process_with_a_traceback(tmp_path):
    """A step that hangs in C code ends the process with a traceback."""
    (tmp_path / "stuck_envs.py").write_text(STUCK)
    words = ["-m", "sheeprl", "check-env", "stuck_envs:Stuck-v0", *QUICK, "--timeout", "0.5"]
    path = os.pathsep.join([str(ROOT), *sys.path])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, timeout=120)
    assert done.returncode == 1 and b"stuck_envs.py" in done.stderr


def test_the_id_is_required(sheeprl):
    """The id is required."""
    done = sheeprl("check-env")
    assert done.code == 2 and done.errors[0].startswith("ID: is missing; Usage: sheeprl check-env ID")


def test_help_shows_the_settings_of_environments(sheeprl):
    """The help shows the settings of environments."""
    done = sheeprl("check-env", "-h")
    assert done.code == 0 and "--seconds" in done.out and "--wrappers" in done.out
    assert "--total_steps" not in done.out and "2 with one line per mistake" in done.out
