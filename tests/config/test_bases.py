"""Test configurations that are based on others, and the file and line in their mistakes."""

import copy
import pickle

import pytest
import yaml

from sheeprl.config.bases import FileTree, locate
from sheeprl.config.loading import apply_overrides, inspect, load_config, presets, read_tree, shipped_folder
from sheeprl.config.yaml_io import Dumper, parse_yaml
from sheeprl.utils.errors import ConfigError


def written(tmp_path, name, text):
    """Write a file and return its path."""
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def mistake_of(path, *overrides):
    """Return the only mistake of a file."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    (mistake,) = caught.value.mistakes
    return mistake


def test_a_file_replaces_settings_of_its_base(tmp_path):
    """The settings of a file replace those of the configuration that it is based on."""
    path = written(tmp_path, "mine.yaml", "base: ppo\nalgo:\n  gamma: 0.9\nrun:\n  # seed: 3\n")
    config = load_config(path)
    assert (config.algo.gamma, config.algo.epochs, config.env.id) == (0.9, 10, "CartPole-v1")
    assert config.run.total_steps == 60_000  # a section of comments changes nothing


def test_later_bases_replace_settings_of_earlier_ones(tmp_path):
    """Several bases count in order, and paths start from the folder of the file."""
    written(tmp_path, "below/one.yaml", "env: {id: One-v0, num_envs: 2, kwargs: {a: 1, b: 1}, wrappers: [x]}")
    written(tmp_path, "below/two.yaml", "base: one.yaml\nenv: {id: Two-v0, kwargs: {b: 2}, wrappers: [y]}")
    path = written(tmp_path, "mine.yaml", "base: [ppo, ./below/two.yaml]\nenv: {kwargs: {c: 3}}")
    env = load_config(path).env
    assert (env.id, env.num_envs) == ("Two-v0", 2)
    assert env.kwargs == {"a": 1, "b": 2, "c": 3}  # mappings are merged
    assert env.wrappers == ("y",)  # lists are replaced
    assert load_config(path, ["env.kwargs={}"]).env.kwargs == {}


def test_two_ways_to_the_same_base_are_no_cycle(tmp_path):
    """A file may be the base of two bases."""
    for name in ("left", "right"):
        written(tmp_path, f"{name}.yaml", "base: ppo\n")
    assert load_config(written(tmp_path, "mine.yaml", "base: [./left.yaml, ./right.yaml]\n")).algo.name == "ppo"


def test_a_cycle_is_named_with_its_files(tmp_path):
    """The mistake for a cycle has the file, the line and all files of the cycle."""
    written(tmp_path, "a.yaml", "base: b.yaml\n")
    written(tmp_path, "b.yaml", "algo:\n  name: ppo\nbase: [ppo, a.yaml]\n")
    assert mistake_of(tmp_path / "a.yaml") == (
        f"{tmp_path}/b.yaml:3: base=a.yaml: is a cycle (a.yaml → b.yaml → a.yaml); remove one of these bases"
    )
    own = written(tmp_path, "own.yaml", "base: ./own.yaml\n")
    assert "is a cycle (own.yaml → own.yaml)" in mistake_of(own)


@pytest.mark.parametrize(
    ("base", "mistake"),
    [
        ("pppo", "base=pppo: isn't a shipped configuration or a preset (atari, dmc, "),
        ("mujocco", "; did you mean mujoco?"),
        ("./none.yaml", "/none.yaml isn't a file; paths are relative to the folder of this file"),
        ("5", "base=5: must be a name or a list of names such as [ppo, mujoco]"),
        ("[ppo, {a: 1}]", ": must be a name or a list of names such as [ppo, mujoco]"),
    ],
)
def test_an_unknown_base_is_a_mistake_with_file_and_line(tmp_path, base, mistake):
    """The mistake for a wrong base has the file and the line."""
    path = written(tmp_path, "mine.yaml", f"algo: {{}}\nbase: {base}\n")
    found = mistake_of(path)
    assert found.startswith(f"{path}:2: ") and mistake in found


def test_a_base_that_is_not_yaml_is_named(tmp_path):
    """A mistake in the YAML of a base has the place in the base."""
    base = written(tmp_path, "broken.yaml", "algo: {name: ppo\n")
    assert mistake_of(written(tmp_path, "mine.yaml", "base: ./broken.yaml\n")).startswith(f"{base}:1:")


def test_mistakes_have_the_file_and_line_of_the_setting(tmp_path):
    """A mistake has the file and the line of the setting, in the base or in the file itself."""
    base = written(tmp_path, "base.yaml", "env:\n  id: X-v0\n  num_envs: 0\n")
    path = written(tmp_path, "mine.yaml", "base: [ppo, ./base.yaml]\nalgo:\n  gama: 0.9\n  hidden_sizes: [64, -1]\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["run.seed=-1"])
    assert sorted(caught.value.mistakes) == sorted(
        [
            f"{path}:3: algo.gama: unknown setting; did you mean algo.gamma?",
            f"{path}:4: algo.hidden_sizes.1=-1: must be at least 1",
            f"{base}:3: env.num_envs=0: must be at least 1",
            "run.seed=-1: must be at least 0",
        ]
    )
    assert mistake_of(base, "algo.name=ppo", "env.num_envs=-1") == "env.num_envs=-1: must be at least 1"
    assert mistake_of(base, "algo.name=sac", "env.num_envs=1", "algo.gama=1").startswith("algo.gama: ")


def test_a_base_for_another_algorithm_is_the_first_mistake(tmp_path):
    """The cause comes before the settings of the base that don't fit; a base that fits isn't blamed."""
    path = written(tmp_path, "mine.yaml", "env: {id: CartPole-v1}\nbase: sac\nalgo: {name: ppo}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    first, *others = caught.value.mistakes
    assert first == (
        f"{path}:2: base=sac: is for sac, but algo.name=ppo, so some of its settings don't fit; use a base for ppo"
    )
    assert len(others) == 2 and all("sac.yaml:" in other for other in others)
    above = written(tmp_path, "above.yaml", "base: ./mine.yaml\n")
    with pytest.raises(ConfigError) as caught:
        load_config(above)
    assert caught.value.mistakes[0] == first
    own = written(tmp_path, "own.yaml", "base: sac\nalgo: {name: droq, gama: 1}\n")
    assert mistake_of(own).startswith(f"{own}:2: algo.gama: ")


def test_every_mutated_setting_of_a_file_has_its_line(tmp_path):
    """Each setting of a shipped configuration, spoiled, gives one line with the file and its line."""
    lines = (shipped_folder() / "dqn.yaml").read_text(encoding="utf-8").splitlines()
    spoiled = 0
    for number, line in enumerate(lines):
        if line.startswith("  ") and "name:" not in line:
            key, indent = line.partition(":")[0], line[: len(line) - len(line.lstrip())]
            text = "\n".join([*lines[:number], f"{indent}{key.strip()}: {{nonsense: 1}}", *lines[number + 1 :]])
            path = written(tmp_path, "mine.yaml", text)
            assert mistake_of(path).startswith(f"{path}:{number + 1}: "), line
            spoiled += 1
    assert spoiled > 5


def test_a_tree_of_files_can_be_copied(tmp_path):
    """Copies of a tree keep the places, and settings from elsewhere have none."""
    tree = read_tree(str(written(tmp_path, "mine.yaml", "run:\n  seed: -1\nalgo: {name: ppo}\nenv: {id: X-v0}\n")))
    for again in (copy.deepcopy(tree), pickle.loads(pickle.dumps(tree))):
        assert isinstance(again, FileTree) and again == tree
        assert parse_yaml(yaml.dump(again, Dumper=Dumper), "test") == tree
        (mistake,) = locate(inspect(again)[1], again)
        assert mistake == f"{tmp_path}/mine.yaml:2: run.seed=-1: must be at least 0"
        apply_overrides(again, ["run.seed=-2"])
        (mistake,) = locate(inspect(again)[1], again)
        assert mistake == "run.seed=-2: must be at least 0"
    assert locate(["run.seed=-1: x", "words: and more"], {}) == ["run.seed=-1: x", "words: and more"]


@pytest.mark.parametrize("preset", sorted(presets()))
@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_presets_make_a_valid_configuration(tmp_path, preset, algorithm):
    """A shipped configuration and a preset together are valid, and bring the environment of the preset."""
    config = load_config(written(tmp_path, "mine.yaml", f"base: [{algorithm}, {preset}]\n"))
    assert config.env.id != "CartPole-v1" and config.algo.name == algorithm


REPEAT, STACK = {"path": "action_repeat", "amount": 2}, {"path": "frame_stack", "stack_size": 3}
FROM_PRESETS = {
    "dreamer_v1": ("dm_control/cartpole-swingup-v0", 1, 50_000, [REPEAT]),
    "dreamer_v2": ("dm_control/cartpole-swingup-v0", 1, 50_000, [REPEAT]),
    "dreamer_v3_cartpole_swingup": ("dm_control/cartpole-swingup-v0", 1, 50_000, [REPEAT]),
    "dreamer_v3_finger_spin": ("dm_control/finger-spin-v0", 1, 25_000, [REPEAT]),
    "droq_halfcheetah": ("HalfCheetah-v5", 1, 50_000, []),
    "ppo_atari": ("ALE/Pong-v5", 8, 10_000_000, ["atari"]),
    "ppo_halfcheetah": ("HalfCheetah-v5", 4, 1_000_000, []),
    "ppo_minatar_breakout": ("MinAtar/Breakout-v1", 32, 2_000_000, []),
    "ppo_minigrid_doorkey": ("MiniGrid-DoorKey-5x5-v0", 16, 150_000, ["one_hot_grid"]),
    "pqn_minatar_breakout": ("MinAtar/Breakout-v1", 128, 3_000_000, []),
    "rainbow_atari": ("ALE/Pong-v5", 8, 2_500_000, ["atari"]),
    "rainbow_minatar_breakout": ("MinAtar/Breakout-v1", 8, 1_000_000, []),
    "sac_ae_walker": ("dm_control/walker-walk-v0", 1, 250_000, [REPEAT, STACK]),
    "sac_cartpole_swingup": ("dm_control/cartpole-swingup-v0", 1, 100_000, [REPEAT]),
    "sac_halfcheetah": ("HalfCheetah-v5", 4, 300_000, []),
    "sac_hopper": ("Hopper-v5", 4, 1_000_000, []),
    "sac_pixels_walker": ("dm_control/walker-walk-v0", 1, 250_000, [REPEAT, STACK]),
    "td3_halfcheetah": ("HalfCheetah-v5", 4, 100_000, []),
}
"""Environment, number of environments, policy steps and wrappers of the shipped configurations with a preset."""


@pytest.mark.parametrize("name", FROM_PRESETS)
def test_a_preset_changes_no_shipped_configuration(name):
    """A shipped configuration with a preset means what it meant without."""
    config = load_config(name)
    env = config.env
    assert (env.id, env.num_envs, config.run.total_steps, list(env.wrappers)) == FROM_PRESETS[name]


def test_shipped_configurations_are_based_on_presets():
    """Each preset is the base of a shipped configuration."""
    used = {base for file in shipped_folder().glob("*.yaml") for base in read_tree(str(file)).bases}
    assert set(presets()) <= used


def test_bases_outside_of_a_file_lead_to_it(tmp_path):
    """`base` on the command line, and the words of other libraries, lead to `base` in a file."""
    with pytest.raises(ConfigError) as caught:
        load_config("ppo", ["base=mujoco"])
    assert caught.value.mistakes == ["base: unknown setting; a file names its bases as in base: [ppo, mujoco]"]
    path = written(tmp_path, "mine.yaml", "defaults: [ppo]\nalgo: {name: ppo}\nenv: {id: X-v0}\n")
    assert mistake_of(path).startswith(f"{path}:1: defaults: unknown setting; a file names its bases")
