"""Test names of runs: a file, a shipped configuration or an algorithm."""

import pytest

from sheeprl import ConfigError
from sheeprl.algos import registry
from sheeprl.cli.names import find_base, is_name, shipped
from sheeprl.config.loading import load_config


def test_every_shipped_configuration_is_listed_and_valid():
    """Every shipped configuration is listed and valid."""
    found = {configuration.name: configuration for configuration in shipped()}
    assert {"ppo", "ppo_pendulum", "sac", "sac_halfcheetah", "redq", "droq", "td3"} <= set(found)
    for name, configuration in found.items():
        config = load_config(name)
        assert (configuration.algorithm, configuration.env) == (config.algo.name, config.env.id)
        assert configuration.summary and "`" not in configuration.summary


def test_a_file_comes_first(tmp_path, monkeypatch):
    """A file precedes a shipped configuration."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ppo").write_text("algo: {name: sac}\nenv: {id: Mine-v0}\n")
    base = find_base("ppo")
    assert base.tree == {"algo": {"name": "sac"}, "env": {"id": "Mine-v0"}}
    assert base.description == "configuration ppo (sac on Mine-v0)"


def test_a_shipped_configuration_comes_before_the_algorithm_of_its_name():
    """A shipped configuration precedes the algorithm of its name."""
    base = find_base("ppo")
    assert base.tree["env"] == {"id": "CartPole-v1", "num_envs": 4}
    assert base.description == (
        "shipped configuration ppo (ppo on CartPole-v1); `sheeprl ppo` starts from the algorithm's defaults"
    )
    assert find_base("sac_halfcheetah").description == "shipped configuration sac_halfcheetah (sac on HalfCheetah-v5)"


def test_the_description_names_the_environment_of_the_command_line():
    """The description names the environment that is used, and that of the configuration if it is another one."""
    assert find_base("ppo", "CartPole-v1").description.startswith("shipped configuration ppo (ppo on CartPole-v1);")
    assert find_base("ppo", "Walker2d-v5").description.startswith(
        "shipped configuration ppo (ppo on Walker2d-v5, with the settings for CartPole-v1);"
    )
    assert find_base("ppo_pendulum", "CartPole-v1").description == (
        "shipped configuration ppo_pendulum (ppo on CartPole-v1, with the settings for Pendulum-v1)"
    )
    assert find_base("dreamer_v2", "Pendulum-v1").description.startswith(
        "shipped configuration dreamer_v2 (dreamer_v2 on Pendulum-v1, with the settings for "
        "dm_control/cartpole-swingup-v0, also env.wrappers=[{amount: 2, path: action_repeat}]); `sheeprl dreamer_v2`"
    )


@pytest.mark.parametrize(
    ("name", "env", "env_of_tree"),
    [
        ("sac", "HalfCheetah-v5", "HalfCheetah-v5"),
        ("sac", "Pendulum-v1", "Pendulum-v1"),
        ("sac", "Walker2d-v5", "Pendulum-v1"),
        ("ppo", "Pendulum-v1", "Pendulum-v1"),
        ("ppo", "Walker2d-v5", "CartPole-v1"),
        ("ppo_pendulum", "CartPole-v1", "Pendulum-v1"),
    ],
)
def test_the_environment_selects_among_the_configurations_of_an_algorithm(name, env, env_of_tree):
    """The environment selects a configuration of the algorithm."""
    assert find_base(name, env).tree["env"]["id"] == env_of_tree


def test_an_algorithm_has_its_defaults(monkeypatch):
    """An algorithm without a configuration has its defaults."""
    monkeypatch.setattr(registry, "registered", lambda: {"mine": None})
    assert find_base("mine").tree == {"algo": {"name": "mine"}}
    assert find_base("mine").description == "algorithm mine with its defaults"
    assert find_base("my_ppo:MyPPO").tree == {"algo": {"name": "my_ppo:MyPPO"}}


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("pppo", "; did you mean ppo? (list: sheeprl algos and sheeprl configs)"),
        ("pp0", "; did you mean ppo? (list: sheeprl algos and sheeprl configs)"),
        ("sac.yml", "; did you mean sac? (list: sheeprl algos and sheeprl configs)"),
        ("zzz", "; list them with sheeprl algos and sheeprl configs"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(name, ending):
    """The message for an unknown name has the nearest one, and the commands that list the known ones."""
    assert not is_name(name)
    with pytest.raises(ConfigError) as caught:
        find_base(name)
    (mistake,) = caught.value.mistakes
    assert mistake == f"{name}: isn't a file, a shipped configuration or an algorithm{ending}"


def test_a_file_without_algorithm_or_environment_says_so(tmp_path):
    """A file without algorithm or environment says so."""
    path = tmp_path / "mine.yaml"
    for text, content in (
        ("run: {seed: 1}", "no algo.name, no env.id"),
        ("algo: {name: ppo}", "ppo, no env.id"),
        ("env: {id: CartPole-v1}", "no algo.name on CartPole-v1"),
    ):
        path.write_text(text)
        assert find_base(str(path)).description == f"configuration {path} ({content})"
