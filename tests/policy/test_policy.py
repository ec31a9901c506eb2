"""Test policies outside of a run: loaded, called, exported and watched."""

import io
import itertools
import json
import shutil
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import yaml
from gymnasium import spaces

import sheeprl
from sheeprl import ConfigError, load_config, train
from sheeprl.algos.build import build_algorithm
from sheeprl.algos.registry import args_class
from sheeprl.checkpoint.run_dir import checkpoints
from sheeprl.cli import main
from sheeprl.envs.make import spaces_of
from sheeprl.envs.space_json import from_json, to_json
from sheeprl.evaluate import chosen_episodes
from sheeprl.policy import screens
from sheeprl.policy.enjoy import play
from sheeprl.policy.loading import read_spaces
from sheeprl.policy.screens import Terminal, Window, as_text, choose_screen
from sheeprl.policy.torch_policy import Draws, TorchPolicy

SMALL = ["run.mode=coupled", "trainer.compile=false", "log.level=error", "trainer.threads=1", "eval.episodes=0"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Return the folder of a short run on Pendulum, whose actions are in [−2, 2]."""
    folder = tmp_path_factory.mktemp("policy") / "run"
    settings = [*SMALL, f"run.dir={folder}", "run.total_steps=64", "env.num_envs=2", "algo.rollout_steps=16"]
    train(load_config("ppo_pendulum", [*settings, "algo.batch_size=32", "algo.epochs=1"]))
    return folder


class Env(gymnasium.Env):
    """Environment of given spaces that returns samples."""

    def __init__(self, observation, action):
        """Store the spaces."""
        self.observation_space, self.action_space = observation, action
        observation.seed(1)

    def reset(self, *, seed=None, options=None):
        """Start an episode."""
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        """Check the action and end the episode after some steps."""
        assert self.action_space.contains(action), action
        self.steps += 1
        return self.observation_space.sample(), 1.0, self.steps >= 15, False, {}


VECTOR, PICTURE = spaces.Box(-3, 3, (5,)), spaces.Box(0, 255, (64, 64, 3), np.uint8)
NESTED = spaces.Dict(
    a=spaces.Dict(x=spaces.Discrete(4), y=spaces.MultiBinary(3)), b=spaces.Box(-1, 1, (2, 2), np.float64)
)
MASKED = spaces.Dict(s=spaces.Box(-1, 1, (4,)), action_mask=spaces.Box(0, 1, (3,), np.int8))
ACTIONS = [
    spaces.Discrete(3, start=5),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiBinary(3),
    spaces.Box(np.array([-2, 0.0], np.float32), np.array([2, 5.0], np.float32)),
    spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
    spaces.Box(-3, 7, (2,), np.int32),
]


def make_policy(name, observation, action):
    """Return an untrained policy and its environment."""
    env = Env(observation, action)
    algorithm = build_algorithm(args_class(name).model_validate({"name": name}), spaces_of(env))
    return TorchPolicy(algorithm, algorithm.build_agent().get_submodule("policy").eval(), action, "Env-v0"), env


def test_loaded_policy_acts_in_units_of_the_environment(run_dir):
    """One observation or a batch; the environment isn't made."""
    policy = sheeprl.load_policy(run_dir)
    batch = np.random.default_rng(0).normal(size=(50, 3)) * [1, 1, 8]
    actions = policy(batch)
    assert (actions.shape, actions.dtype) == ((50, 1), np.float32)
    assert np.allclose(policy(batch[0]), actions[0], atol=1e-6)  # without a state, the batch may change its size
    assert policy.spec.policy_steps == 64
    explore = sheeprl.load_policy(run_dir, mode="explore")
    assert np.abs(explore(batch)).max() > 1  # beyond the agent's [−1, 1]
    explore.seed(3)
    again = sheeprl.load_policy(run_dir, mode="explore", seed=3)
    assert np.array_equal(explore(batch), again(batch))
    (run_dir / "spaces.json").rename(run_dir / "hidden")
    assert np.array_equal(sheeprl.load_policy(run_dir)(batch), policy(batch))  # of an older version: makes it
    (run_dir / "hidden").rename(run_dir / "spaces.json")


def test_wrong_calls_are_named(run_dir, tmp_path):
    """The message has the shape, or the path."""
    policy = sheeprl.load_policy(run_dir)
    with pytest.raises(ValueError, match=r"obs has the shape \[4\]; this policy needs \[3\]"):
        policy(np.zeros(4))
    with pytest.raises(ValueError, match=r"obs has values that aren't numbers"):
        policy(["a", 0.0, 0.0])
    nested, _ = make_policy("ppo", NESTED, ACTIONS[0])
    with pytest.raises(ValueError, match=r"no 'a\.x'"):
        nested({"b": np.zeros((2, 2))})
    for path in ("nothing", tmp_path / "no.onnx"):
        with pytest.raises(ConfigError, match="no such"):
            sheeprl.load_policy(path)
    for path in (3, ""):
        with pytest.raises(ConfigError, match="must be a run, a checkpoint or an exported file"):
            sheeprl.load_policy(path)
    with pytest.raises(ConfigError, match="mode='exploring': must be greedy or explore"):
        sheeprl.load_policy(run_dir, mode="exploring")
    (tmp_path / "bad.pt2").write_bytes(b"abc")
    with pytest.raises(ConfigError, match=r"bad\.pt2: can't be loaded"):
        sheeprl.load_policy(tmp_path / "bad.pt2")


def test_a_checkpoint_that_does_not_fit_is_named(run_dir, tmp_path):
    """A damaged file leads to another checkpoint; other widths name the first tensor and both shapes."""
    copied = shutil.copytree(run_dir, tmp_path / "copied")
    newest = checkpoints(copied)[-1]
    config = (copied / "config.yaml").read_text()
    other = yaml.safe_load(config)
    other["algo"]["hidden_sizes"] = [9]
    (copied / "config.yaml").write_text(yaml.safe_dump(other))
    with pytest.raises(
        ConfigError, match=r"in the checkpoint, but .*\[9, 3\].*; undo changes of the run's config.yaml"
    ):
        sheeprl.load_policy(copied)
    (copied / "config.yaml").write_text(config)
    (newest / "agent.pt").write_bytes(b"garbage")
    older = checkpoints(copied)[0]
    with pytest.raises(ConfigError, match=rf"agent\.pt: is damaged; use another checkpoint, such as {older}"):
        sheeprl.load_policy(copied)
    shutil.rmtree(older)
    with pytest.raises(ConfigError, match=r"agent\.pt: is damaged; the run has no other checkpoint"):
        sheeprl.load_policy(copied)


def test_state_of_a_recurrent_policy_is_inside():
    """A reset forgets; a partial one forgets in some environments of a batch."""
    policy, _ = make_policy("ppo_recurrent", VECTOR, ACTIONS[3])
    obs = np.random.default_rng(0).normal(size=(3, 2, 5)).astype(np.float32)
    first, second = policy(obs[0]), policy(obs[1])
    with pytest.raises(ValueError, match="a batch of 1 after one of 2; call reset"):
        policy(obs[0, :1])
    assert not np.allclose(policy(obs[1]), second)
    policy.reset()
    assert np.array_equal(policy(obs[0]), first)
    policy.reset(where=[True, False])
    mixed = policy(obs[0])
    assert np.array_equal(mixed[0], first[0])
    assert not np.allclose(mixed[1], first[1])


@pytest.mark.parametrize("space", [VECTOR, NESTED, MASKED, *ACTIONS, spaces.Box(-np.inf, np.inf, (2,))])
def test_spaces_survive_json(space):
    """The space is equal, with its dtype."""
    found = from_json(to_json(space))
    assert found == space
    assert found.dtype == space.dtype


def test_random_numbers_of_a_policy_are_found_and_replaced():
    """Draws from a generator are recorded by kind and shape, and given ones take their place."""
    import torch

    generator = torch.Generator()
    with Draws() as draws:
        torch.rand(3, 2, generator=generator)
        torch.randn((3, 4), generator=generator)
        torch.rand(3)  # of no generator
    assert [(leaf.key, leaf.shape) for leaf in draws.found] == [("uniform/0", (2,)), ("normal/1", (4,))]
    with Draws([torch.ones(3)]):
        assert torch.rand(3, generator=generator).tolist() == [1.0, 1.0, 1.0]


def holds_pickle(path):
    """Return True if a part of an exported file is a pickle, or is marked as one."""
    if not zipfile.is_zipfile(path):
        return b"pickle" in path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = next(part for name, part in parts.items() if name.endswith("weights_config.json"))
    raw = [part for name, part in parts.items() if "/weights/weight_" not in name]
    flags = [weight["use_pickle"] for weight in json.loads(config)["config"].values()]
    return any(flags) or any(part.startswith(b"\x80") for part in raw)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
@pytest.mark.parametrize(
    ("name", "observation", "action"),
    [
        *(("ppo", VECTOR, action) for action in ACTIONS),
        ("ppo", MASKED, spaces.Discrete(3)),
        ("ppo_recurrent", NESTED, ACTIONS[3]),
        ("sac", NESTED, ACTIONS[3]),
        ("dqn", PICTURE, spaces.Discrete(4)),
        pytest.param("dreamer_v3", PICTURE, ACTIONS[3], marks=pytest.mark.every),
        pytest.param("p2e_dv3", MASKED, spaces.Discrete(3), marks=pytest.mark.every),
    ],
)
def test_exported_policy_equals_its_origin(tmp_path, kind, name, observation, action):
    """The actions differ by at most 1e-6 of their range, one by one and as a batch."""
    pytest.importorskip("onnxruntime" if kind == "onnx" else "torch")
    from sheeprl.policy.export import compare, export_policy, record

    origin, env = make_policy(name, observation, action)
    path = tmp_path / f"policy.{kind}"
    export_policy(origin, path)
    assert compare(origin, path, record(origin, env, 40)).difference <= 1e-6
    assert not holds_pickle(path)


def test_a_run_needs_the_packages_of_training(run_dir):
    """Where only those of exported files are installed, the message names the missing one and the remedy."""
    code = (
        "import sys\nfor name in ('torch', 'gymnasium', 'ray', 'pydantic', 'yaml'): sys.modules[name] = None\n"
        f"import sheeprl\ntry: sheeprl.load_policy({str(run_dir)!r})\n"
        "except sheeprl.ConfigError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "isn't installed; load a file of sheeprl export here" in done.stdout


@pytest.mark.slow
def test_onnx_policy_needs_only_onnxruntime_and_numpy(run_dir, tmp_path, capsys):
    """The command exports; a process without torch, gymnasium and Ray acts."""
    pytest.importorskip("onnxruntime")
    path = tmp_path / "policy.onnx"
    with pytest.raises(SystemExit, match="0"):
        main(["export", str(run_dir), "--out", str(path), "--steps", "20"])
    assert "largest difference" in capsys.readouterr().out
    code = (
        "import sys\nfor name in ('torch', 'gymnasium', 'ray', 'pydantic', 'yaml'): sys.modules[name] = None\n"
        f"import numpy, sheeprl\nprint(sheeprl.load_policy({str(path)!r})(numpy.zeros(3)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("(1,)", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "x", "--to", "tflite"], "--to tflite: must be onnx or pt2"),
        (["export", "x", "--out", "a.pt2"], "--out a.pt2: must end with .onnx"),
        (["enjoy", "x", "--fps", "0"], "--fps=0.0: must be positive"),
        (["enjoy", "nothing"], "nothing: no such folder or run; use one of sheeprl ls"),
    ],
)
def test_wrong_words(words, message, capsys):
    """Each mistake is one line and exit code 2."""
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert capsys.readouterr().err == f"error: {message}\n"


def test_enjoy_draws_into_the_terminal_and_follows(run_dir, monkeypatch):
    """A newer checkpoint is loaded before the next episode."""
    pytest.importorskip("pygame")
    stream = io.StringIO()
    watched = play(str(run_dir), Terminal(stream), follow=True, fps=1e9)
    (first,) = itertools.islice(watched, 1)
    assert (first.policy_steps, first.length) == (64, 200)
    assert "▀" in stream.getvalue()
    old = run_dir / "checkpoints" / "step_64"
    shutil.copytree(old, old.with_name("step_999"))
    (second,) = itertools.islice(watched, 1)
    assert second.policy_steps == 999
    shutil.rmtree(old.with_name("step_999"))


def test_enjoy_without_a_screen_prints_the_returns(run_dir, monkeypatch, capsys):
    """Without a display and a terminal, the episodes are played and a warning says that nothing is drawn."""
    monkeypatch.setattr(screens, "has_display", lambda: False)
    with pytest.raises(SystemExit, match="0"):
        main(["enjoy", str(run_dir), "--episodes", "2"])
    printed = capsys.readouterr()
    assert printed.out.count("in 200 steps, after 64 policy steps") == 2 and "▀" not in printed.out
    assert printed.err == "warning: there is neither a display nor a terminal, so nothing is drawn\n"
    with pytest.raises(ConfigError, match="no display"):
        choose_screen(terminal=False)


def test_enjoy_ends_with_its_window(run_dir, monkeypatch):
    """No episode is played after the user has closed the window."""
    shown = []

    def draw(self):
        """Stand for the drawing in a window, which this machine may not have."""
        shown.append(self)

    pygame = SimpleNamespace(
        QUIT=256,
        display=SimpleNamespace(get_init=lambda: True),
        event=SimpleNamespace(peek=lambda kind: kind == 256 and len(shown) > 210),
    )
    monkeypatch.setitem(sys.modules, "pygame", pygame)
    monkeypatch.setattr("gymnasium.envs.classic_control.pendulum.PendulumEnv.render", draw)
    played = list(play(str(run_dir), Window(), fps=1e9))
    assert [each.length for each in played] == [200]


def test_enjoy_in_a_notebook(run_dir, monkeypatch):
    """Each picture replaces the previous one in the output of the cell."""
    pytest.importorskip("PIL")
    shown = []

    class Output:
        """Output of a cell."""

        def update(self, image):
            """Replace the picture."""
            shown.append(image.data)

    def display(image, display_id):
        """Show the first picture."""
        shown.append(image.data)
        return Output()

    drawn = SimpleNamespace(Image=lambda data: SimpleNamespace(data=data), display=display)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=drawn))
    monkeypatch.setitem(sys.modules, "IPython.display", drawn)
    kernel = SimpleNamespace(IPKernelApp=SimpleNamespace(initialized=lambda: True))
    monkeypatch.setitem(sys.modules, "ipykernel.kernelapp", kernel)
    picture = np.zeros((4, 4, 3), np.uint8)
    monkeypatch.setattr("gymnasium.envs.classic_control.pendulum.PendulumEnv.render", lambda self: picture)
    played = sheeprl.enjoy(run_dir, episodes=1, fps=1e9)
    assert [each.length for each in played] == [200] and len(shown) == 200
    assert all(data.startswith(b"\x89PNG") for data in shown)


def test_enjoy_names_the_extra_of_a_package_that_only_drawing_needs(run_dir, monkeypatch):
    """A package that is imported when an environment draws is named with its extra, before anything is drawn."""

    def render(self):
        """Fail as without pygame."""
        raise gymnasium.error.DependencyNotInstalled("pygame is not installed") from ModuleNotFoundError(
            "No module named 'pygame'", name="pygame"
        )

    monkeypatch.setattr("gymnasium.envs.classic_control.pendulum.PendulumEnv.render", render)
    stream = io.StringIO()
    with pytest.raises(ConfigError, match=r"pygame is not installed; pip install .*classic"):
        next(play(str(run_dir), Terminal(stream)))
    assert not stream.getvalue()


def test_picture_fits_the_terminal():
    """A line has at most as many blocks as the terminal has columns."""
    lines = as_text(np.zeros((60, 90, 3), np.uint8), 30, 8).splitlines()
    assert len(lines) <= 8
    assert max(line.count("▀") for line in lines) <= 30


def test_a_policy_that_explores_takes_batches_of_any_size(tmp_path):
    """The policy drops state that only training needs, such as the return of normalized rewards."""
    settings = [*SMALL, f"run.dir={tmp_path / 'run'}", "run.total_steps=64", "env.num_envs=2", "algo.rollout_steps=16"]
    train(load_config("ppo", [*settings, "algo.batch_size=32", "algo.epochs=1", "algo.normalize_reward=true"]))
    policy = sheeprl.load_policy(tmp_path / "run", mode="explore")
    assert policy(np.zeros((4, 4), np.float32)).shape == (4,)
    assert policy(np.zeros((2, 4), np.float32)).shape == (2,)


def test_filmed_episodes():
    """The best, the worst and the median are filmed, each once."""
    assert chosen_episodes([3.0, 1.0, 2.0, 5.0, 4.0]) == {3: "best", 1: "worst", 0: "median"}
    assert chosen_episodes([3.0, 1.0]) == {0: "best", 1: "worst"}
    assert chosen_episodes([3.0]) == {0: "best"}


@pytest.mark.parametrize("text", ['{"x": ', "[]", '{"action": {"kind": "odd"}}'])
def test_damaged_spaces_are_one_line(tmp_path, text):
    """The message names the file and the remedy."""
    (tmp_path / "spaces.json").write_text(text)
    with pytest.raises(ConfigError, match=r"spaces\.json: is damaged: .*; remove it") as error:
        read_spaces(tmp_path, load_config("ppo").env)
    assert "\n" not in str(error.value)
