"""Hints for misspelled names: typos and parts of names lead to the name, luck leads nowhere."""

from importlib.metadata import EntryPoint

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sheeprl.algos import registry
from sheeprl.algos.ppo.args import PPOArgs
from sheeprl.algos.sac.args import SACArgs
from sheeprl.config.schema import Config, config_class, leaves
from sheeprl.config.suggestions import closest, hint

PPO, SAC = config_class(PPOArgs), config_class(SACArgs)
LEAVES = sorted({key.rpartition(".")[2] for key, _ in leaves(PPO)})


@pytest.mark.parametrize("place", [1, 2])
def test_a_typo_leads_to_the_name(place):
    for name in LEAVES:
        if len(name) > 3:
            check_typos(name, place)


def check_typos(name, place):
    missing = name[:place] + name[place + 1 :]
    swapped = name[:place] + name[place + 1] + name[place] + name[place + 2 :]
    for typo in {missing, swapped, name + "s"} - set(LEAVES):
        if len(typo) > 3:
            assert closest(typo, LEAVES) is not None
            assert closest(typo, [name, "threads_of_all", "zzz"]) == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("max_grad", "max_grad_norm"),
        ("envs_num", "num_envs"),
        ("accel", "accelerator"),
        ("learning_rates", "learning_rate"),
        ("normalise_advantage", "normalize_advantage"),
        ("num", "num"),
        ("dim", None),
        ("foo", None),
        ("clap", None),
        ("actor", None),
        ("value", None),
        ("norm", None),
        ("log", None),
        ("max_checkpoints", None),
        ("auto_alpha", None),
        ("env_steps", None),
        ("value_clip", "clip_value"),
        ("num_gpus", None),
        ("noise", None),
        ("momentum", None),
        ("weight_decay", None),
        ("dropout", None),
        ("x", None),
        ("", None),
    ],
)
def test_luck_is_no_hint(name, expected):
    assert closest(name, LEAVES) == expected


@pytest.mark.parametrize("key", ["env.num", "eval.num", "nenvs", "ngpus", "max_steps", "model", "checkpoint_dir"])
def test_a_likeness_doesn_t_hide_a_name_of_another_library(key):
    assert hint(key, PPO).startswith("; use ")


def test_a_setting_of_another_algorithm_leads_to_the_algorithm():
    assert hint("clip", SAC) == hint("algo.clip", SAC) == "; algo.clip is a setting of ppo"
    assert hint("critic_lr", PPO).startswith("; algo.critic_lr is a setting of droq, sac and td3")


def test_a_broken_algorithm_hides_no_hint(monkeypatch):
    broken = EntryPoint("broken", "no_such_package.args:Args", registry.GROUP)
    found = {"broken": broken, **registry.registered()}
    monkeypatch.setattr(registry, "registered", lambda: found)
    assert hint("clip", SAC) == "; algo.clip is a setting of ppo"


@given(st.text("abcdefghijklmnopqrstuvwxyz_", max_size=12), st.sampled_from([PPO, SAC]))
def test_a_hint_names_settings_and_never_a_group(name, model):
    found = hint(name, model)
    if found.startswith("; did you mean "):
        settings = found.removeprefix("; did you mean ").rstrip("?").split(" or ")
        assert set(settings) <= {key for key, _ in leaves(model)}
        assert not set(settings) & set(Config.model_fields)


def test_a_hint_converts_keys_to_the_form_of_the_message():
    assert hint("num_env", PPO, lambda key: f"<{key}>") == "; did you mean <env.num_envs>?"
    assert hint("lr", PPO, lambda key: f"<{key}>") == "; use <algo.learning_rate>"
    assert hint("lr", SAC) == "; use algo.actor_lr, algo.critic_lr or algo.alpha_lr"
