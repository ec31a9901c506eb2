"""Test the warnings about settings without effect."""

import pytest
from gymnasium import spaces as kinds
from pydantic import Field

from sheeprl.algos import registry
from sheeprl.algos.args import EncoderArgs, OnPolicyArgs
from sheeprl.config.defaults import fill_in
from sheeprl.config.effects import CONDITIONS, without_effect
from sheeprl.config.loading import load_config, shipped_folder
from sheeprl.config.schema import config_class, leaves
from sheeprl.envs.transforms import Spaces
from sheeprl.utils.settings import needs

VECTOR = Spaces(kinds.Box(-1, 1, (3,)), kinds.Box(-1, 1, (1,)))
PICTURE = Spaces(kinds.Dict({"rgb": kinds.Box(0, 255, (8, 8, 3), "uint8"), "state": VECTOR.observation}), VECTOR.action)
DISCRETE = Spaces(VECTOR.observation, kinds.Discrete(2))


def warnings_of(config, spaces=VECTOR):
    """Return the warnings about a configuration."""
    return list(without_effect(config, fill_in(config), spaces))


def load(algorithm, *overrides):
    """Return a configuration on any environment."""
    return load_config(algorithm, ["env.id=Any-v0", *overrides])


@pytest.mark.parametrize(
    ("algorithm", "overrides", "setting", "remedy"),
    [
        ("ppo", ["run.mode=coupled"], "players.cpus=2.0", "run.mode=decoupled"),
        ("ppo", ["run.mode=coupled"], "players.gpus=0.5", "run.mode=decoupled"),
        ("ppo", ["run.mode=coupled"], "players.spares=2", "run.mode=decoupled"),
        ("sac", ["run.mode=coupled"], "checkpoint.snapshot_every=5", "run.mode=decoupled"),
        ("sac", ["run.mode=coupled"], "ray.address=cluster:6379", "run.mode=decoupled"),
        ("sac", ["run.mode=coupled"], "ray.wait_timeout=3.0", "run.mode=decoupled"),
        ("sac", ["ray.max_failures=0"], "ray.failure_window=3.0", "ray.max_failures=3"),
        ("sac", ["ray.max_failures=0"], "players.spares=3", "ray.max_failures=3"),
        ("sac", ["eval.episodes=0"], "eval.every=3", "eval.episodes=10"),
        ("sac", ["eval.episodes=0"], "eval.explore=true", "eval.episodes=10"),
        ("sac", ["eval.episodes=0"], "eval.step_limit=null", "eval.episodes=10"),
        ("sac", ["eval.episodes=0"], "eval.env={max_episode_steps: 3}", "eval.episodes=10"),
        ("sac", ["run.total_steps=1000"], "eval.every=1000", "a smaller value"),
        ("sac", [], "players.quorum=0.5", "more players or a smaller part"),
        ("ppo", [], "buffer.checkpoint=false", ""),
        ("ppo", [], "trainer.prefetch=2", ""),
        ("ppo", [], "trainer.strategy=ddp", "trainer.devices=2"),
        ("ppo", [], "algo.min_learning_rate=0.0001", "set algo.desired_kl"),
        ("ppo", [], "algo.cnn_features=64", ""),
        ("sac", ["algo.learn_alpha=false"], "algo.alpha_lr=0.1", "algo.learn_alpha=true"),
        ("dqn", [], "algo.atoms=7", "algo.head=c51"),
        ("dqn", ["algo.head=c51"], "algo.quantiles=7", "algo.head=qr"),
        ("dqn", [], "algo.env_epsilon_power=3.0", "set algo.env_epsilon"),
        ("dqn", [], "algo.noisy_std=0.1", "algo.noisy=true"),
        ("appo", [], "algo.memory_size=9", "set algo.memory"),
    ],
)
def test_a_setting_without_effect_is_warned_about(algorithm, overrides, setting, remedy):
    """The warning about a setting without effect has its reason and what would give it one."""
    (warning,) = warnings_of(load(algorithm, *overrides, setting))
    assert warning.startswith(f"{setting}: has no effect ")
    advice = remedy if remedy.startswith("set ") else f"use {remedy}"
    assert warning.endswith(f"; {advice} or leave it out" if remedy else "; leave it out")
    assert warnings_of(load(algorithm, *overrides)) == []


def test_settings_with_an_effect_are_not_warned_about():
    """Settings with an effect cause no warning."""
    assert warnings_of(load("sac", "players.cpus=2", "players.spares=2", "trainer.prefetch=2", "eval.every=9")) == []
    assert warnings_of(load("sac", "buffer.checkpoint=false", "trainer.strategy=ddp", "trainer.devices=2")) == []


def test_the_defaults_of_a_resumed_run_are_not_warned_about():
    """A configuration with all defaults filled in, as a resumed run has it, causes no warning."""
    for mode in ("coupled", "decoupled"):
        filled = fill_in(load("ppo", f"run.mode={mode}", "eval.episodes=0", "ray.max_failures=0"))
        assert warnings_of(filled) == []


@pytest.mark.parametrize("name", sorted(file.stem for file in shipped_folder().glob("*.yaml")))
def test_a_shipped_configuration_has_no_setting_without_effect(name):
    """No shipped configuration sets the rules of a run without effect; those of the spaces depend on extras."""
    config = load_config(name)
    keys = {warning.partition("=")[0] for warning in warnings_of(config, PICTURE)}
    assert not {key for key in keys if not key.startswith("algo.")}


class OwnArgs(EncoderArgs, OnPolicyArgs):
    """Arguments that depend on each other and on the spaces."""

    head: str = "plain"
    atoms: int = Field(51, json_schema_extra=needs("algo.head=fine"))
    limit: float | None = None
    limit_decay: float = Field(0.5, json_schema_extra=needs("algo.limit"))
    features: int = Field(9, json_schema_extra=needs("pictures"))
    log_std: float = Field(0.0, json_schema_extra=needs("continuous"))
    temperature: float = Field(1.0, json_schema_extra=needs("discrete"))


def own(**args):
    """Return a configuration of the arguments."""
    return config_class(OwnArgs).model_validate({"algo": {"name": "own", **args}, "env": {"id": "Any-v0"}})


@pytest.mark.parametrize(
    ("args", "spaces", "warnings"),
    [
        (
            {"atoms": 3},
            VECTOR,
            ["algo.atoms=3: has no effect with algo.head=plain; use algo.head=fine or leave it out"],
        ),
        ({"atoms": 3, "head": "fine"}, VECTOR, []),
        (
            {"limit_decay": 0.1},
            VECTOR,
            ["algo.limit_decay=0.1: has no effect with algo.limit=null; set algo.limit or leave it out"],
        ),
        (
            {"features": 3},
            VECTOR,
            ["algo.features=3: has no effect without a picture in the observation; leave it out"],
        ),
        ({"features": 3}, PICTURE, []),
        (
            {"features": 3, "cnn_keys": []},
            PICTURE,
            ["algo.features=3: has no effect without a picture in the observation; leave it out"],
        ),
        ({"log_std": 1.0}, VECTOR, []),
        ({"log_std": 1.0}, DISCRETE, ["algo.log_std=1.0: has no effect with discrete actions; leave it out"]),
        ({"temperature": 2.0}, DISCRETE, []),
        (
            {"temperature": 2.0},
            VECTOR,
            ["algo.temperature=2.0: has no effect with continuous actions; leave it out"],
        ),
    ],
)
def test_an_algorithm_declares_the_conditions_of_its_arguments(args, spaces, warnings):
    """An algorithm declares the conditions of its arguments."""
    assert warnings_of(own(**args), spaces) == warnings


@pytest.mark.parametrize("name", registry.registered())
def test_every_declared_condition_is_known(name):
    """Every condition that a setting declares is a known one, or names a setting."""
    fields = dict(leaves(config_class(registry.args_class(name))))
    for key, field in fields.items():
        for condition in (field.json_schema_extra or {}).get("needs", []):
            assert condition in CONDITIONS or condition.partition("=")[0] in fields, key
