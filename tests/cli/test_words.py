"""Test that flags and overrides mean the same, in any order."""

import pytest

from sheeprl import ConfigError
from sheeprl.algos.ppo.args import PPOArgs
from sheeprl.cli.flags import Flags
from sheeprl.cli.words import example, read_words, take_name, take_switch, take_value
from sheeprl.config.loading import apply_overrides

PPO = Flags(PPOArgs)
NAMES = ("ppo", "mine.yaml")


def read(*words):
    """Return the settings in words."""
    return read_words(words, PPO, "sheeprl ppo -h all")


def tree_of(*words):
    """Return the tree of words without mistakes."""
    tree, settings = {}, read(*words)
    settings.apply(tree)
    assert settings.mistakes == []
    return tree


@pytest.mark.parametrize(
    "words",
    [
        ["--seed", "3", "--env", "CartPole-v1", "--anneal"],
        ["run.seed=3", "env.id=CartPole-v1", "algo.anneal=true"],
        ["--seed=3", "env.id=CartPole-v1", "--anneal", "true"],
        ["--anneal", "--run.seed", "3", "--env_id", "CartPole-v1"],
        ["--anneal", "run.seed=3", "--id=CartPole-v1"],
    ],
)
def test_both_dialects_mean_the_same(words):
    """Flags and overrides mean the same."""
    assert tree_of(*words) == {"run": {"seed": 3}, "env": {"id": "CartPole-v1"}, "algo": {"anneal": True}}


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--capture_video"], True),
        (["--no-capture_video"], False),
        (["--no-capture-video"], False),
        (["--no_env.capture_video"], False),
        (["--capture_video", "false"], False),
        (["--capture_video=false"], False),
        (["--capture_video", "--num_envs", "1"], True),
    ],
)
def test_booleans_are_switches(words, value):
    """Booleans are switches."""
    assert tree_of(*words)["env"]["capture_video"] is value


def test_a_switch_with_more_values_takes_them():
    """A switch with further values accepts them."""
    assert tree_of("--compile")["trainer"] == {"compile": True}
    assert tree_of("--no-compile")["trainer"] == {"compile": False}
    assert tree_of("--compile", "auto")["trainer"] == {"compile": "auto"}


@pytest.mark.parametrize(
    ("words", "mistakes"),
    [
        (["--no-anneal=true"], ["--no-anneal=true: takes no value; use --anneal=true"]),
        (["--no-seed"], ["--no-seed: isn't a switch; use --seed 0 (list: sheeprl ppo -h all)"]),
        (["--seed"], ["--seed: needs a value, as in --seed 0"]),
        (["--num_envs", "--mode", "coupled"], ["--num_envs: needs a value, as in --num_envs 8"]),
        (["-s", "3"], ["-s: unknown flag; use --seed (list: sheeprl ppo -h all)"]),
        (["--anneal", "--no-anneal"], ["--anneal and --no-anneal: set algo.anneal twice; leave one of them out"]),
        (["--seed", "3", "run.seed=4"], ["--seed 3 and run.seed=4: set run.seed twice; leave one of them out"]),
        (["run.seed=3", "--seed=3"], ["run.seed=3 and --seed=3: set run.seed twice; leave one of them out"]),
        (["run.seed"], ["'run.seed': isn't a setting; use key=value, as in run.seed=1"]),
        (["++algo.gamma=0.9"], ["'++algo.gamma=0.9': isn't a setting; use algo.gamma=0.9"]),
        (["seed"], ["'seed': not a flag; set settings as in --num_envs 8 (list: sheeprl ppo -h all)"]),
        (["-n", "3"], ["-n: unknown flag; use --total_steps (list: sheeprl ppo -h all)"]),
        (["-v"], ["-v: unknown flag; use --level=debug (list: sheeprl ppo -h all)"]),
        (["-z"], ["-z: unknown flag (list: sheeprl ppo -h all)"]),
        (["--timesteps", "3"], ["--timesteps: unknown flag; use --total_steps (list: sheeprl ppo -h all)"]),
        (["--cuda"], ["--cuda: unknown flag; use --accelerator=cuda (list: sheeprl ppo -h all)"]),
        (["--no-cuda"], ["--no-cuda: unknown flag; use --accelerator=cpu (list: sheeprl ppo -h all)"]),
        (
            ["--algo", "ppo"],
            ["--algo: unknown flag; name the algorithm first, as in sheeprl train ppo (list: sheeprl ppo -h all)"],
        ),
        (["CartPole-v1"], ["'CartPole-v1': not a flag; did you mean --env CartPole-v1?"]),
        (["ALE/Pong-v5"], ["'ALE/Pong-v5': not a flag; did you mean --env ALE/Pong-v5?"]),
        (["--lr", "3"], ["--lr: unknown flag; use --learning_rate (list: sheeprl ppo -h all)"]),
        (["--total-timesteps=3"], ["--total-timesteps: unknown flag; use --total_steps (list: sheeprl ppo -h all)"]),
    ],
)
def test_each_mistake_is_one_line(words, mistakes):
    """Each mistake is one line."""
    assert read(*words).mistakes == mistakes


def test_a_repeated_name_sets_the_last_value():
    """The last value of a repeated name counts."""
    assert tree_of("--seed", "1", "--seed", "2", "env.id=a", "env.id=b") == {"run": {"seed": 2}, "env": {"id": "b"}}


def test_text_stays_text_in_both_dialects():
    """Text settings take digits as text in both dialects."""
    assert tree_of("run.dir=007")["run"] == tree_of("--run_dir", "007")["run"] == {"dir": "007"}


@pytest.mark.parametrize("value", ["007", "1e5", "null", "[1, 2]", "{a: b}", "-3", "a b: 'c'", "long " * 50])
def test_settings_as_overrides_keep_their_values(value):
    """Settings converted to overrides have the same values."""
    settings = read("--run_dir", value, f"env.kwargs={{x: {value!r}}}", "--hidden_sizes", "[8, 8]")
    tree, again = {}, {}
    settings.apply(tree)
    apply_overrides(again, settings.overrides)
    assert again == tree


def test_overrides_of_mistaken_words_are_refused():
    """Words with mistakes can't be converted to overrides."""
    with pytest.raises(ConfigError, match="unknown flag"):
        _ = read("--zzz", "3").overrides


# -------------------------------------------------------------------------------------------- the NAME


@pytest.mark.parametrize(
    ("words", "name", "rest"),
    [
        (["ppo"], "ppo", []),
        (["ppo", "--seed", "3"], "ppo", ["--seed", "3"]),
        (["--seed", "3", "ppo", "run.dir=x"], "ppo", ["--seed", "3", "run.dir=x"]),
        (["--capture_video", "ppo"], "ppo", ["--capture_video"]),
        (["--capture_video", "true", "ppo"], "ppo", ["--capture_video", "true"]),
        (["--anneal", "ppo"], "ppo", ["--anneal"]),  # a switch of some algorithms only
        (["--learning_rate", "1e-3", "mine.yaml"], "mine.yaml", ["--learning_rate", "1e-3"]),
        (["unknown", "--seed", "3"], "unknown", ["--seed", "3"]),
        (["--env", "CartPole-v1"], None, ["--env", "CartPole-v1"]),
        (["run.seed=3"], None, ["run.seed=3"]),
        ([], None, []),
    ],
)
def test_the_name_may_stand_anywhere(words, name, rest):
    """The name may be at any position."""
    assert take_name(words, lambda word: word in NAMES) == name
    assert words == rest


def test_options_of_a_command_are_taken_from_its_words():
    """Options of a command are removed from its words."""
    words = ["ppo", "--dry_run", "--config", "a.yaml", "--seed", "3", "--config=b.yaml"]
    assert take_switch(words, "dry-run") and not take_switch(words, "diff")
    assert take_value(words, "config") == "b.yaml" and take_value(words, "out") is None
    assert words == ["ppo", "--seed", "3"]


@pytest.mark.parametrize("words", [["--config"], ["--config", "--seed"]])
def test_an_option_without_its_value_is_refused(words):
    """An option without its value is refused."""
    with pytest.raises(ConfigError, match="--config: needs a value"):
        take_value(words, "config")


def test_a_switch_of_a_command_takes_no_value():
    """A switch of a command takes no value."""
    with pytest.raises(ConfigError, match="--dry-run=no: takes no value; use --dry-run"):
        take_switch(["--dry-run=no"], "dry-run")


@pytest.mark.parametrize(
    ("key", "value"), [("env.id", "CartPole-v1"), ("algo.gamma", "0.99"), ("run.dir", "runs/mine")]
)
def test_examples_are_values_that_work(key, value):
    """The values of examples are valid."""
    assert example(PPO.by_key[key]) == value
