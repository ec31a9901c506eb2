"""Test the hints for misspelled names."""

from importlib.metadata import EntryPoint

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sheeprl import ConfigError, load_config
from sheeprl.algos import registry
from sheeprl.algos.ppo.args import PPOArgs
from sheeprl.algos.sac.args import SACArgs
from sheeprl.config.schema import Config, config_class, leaves
from sheeprl.config.suggestions import closest, hint

PPO, SAC = config_class(PPOArgs), config_class(SACArgs)
LEAVES = sorted({key.rpartition(".")[2] for key, _ in leaves(PPO)})


@pytest.mark.parametrize("place", [1, 2])
def test_a_typo_leads_to_the_name(place):
    """A typo leads to the correct name."""
    for name in LEAVES:
        if len(name) > 3:
            check_typos(name, place)


def check_typos(name, place):
    """Check that omitted, swapped and additional characters lead to the name."""
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
def test_an_accidental_likeness_is_no_hint(name, expected):
    """Names with an accidental likeness get no hint."""
    assert closest(name, LEAVES) == expected


@pytest.mark.parametrize("key", ["env.num", "eval.num", "nenvs", "ngpus", "max_steps", "model", "checkpoint_dir"])
def test_a_name_of_another_library_precedes_a_similar_one(key):
    """The name of another library precedes a similar name."""
    assert hint(key, PPO).startswith("; use ")


def test_a_setting_of_another_algorithm_leads_to_the_algorithm():
    """A setting of another algorithm leads to the algorithm."""
    assert hint("clip", SAC) == hint("algo.clip", SAC)
    assert hint("clip", SAC) == "; algo.clip is a setting of appo, ppo and ppo_recurrent"
    assert hint("critic_lr", PPO).startswith("; algo.critic_lr is a setting of dreamer_v1, dreamer_v2, droq, ")


def test_a_broken_algorithm_hides_no_hint(monkeypatch):
    """An algorithm that can't be loaded hides no hint."""
    broken = EntryPoint("broken", "no_such_package.args:Args", registry.GROUP)
    found = {"broken": broken, **registry.registered()}
    monkeypatch.setattr(registry, "registered", lambda: found)
    assert hint("clip", SAC) == "; algo.clip is a setting of appo, ppo and ppo_recurrent"


@given(st.text("abcdefghijklmnopqrstuvwxyz_", max_size=12), st.sampled_from([PPO, SAC]))
def test_a_hint_names_settings_only(name, model):
    """A hint names settings, never a section."""
    found = hint(name, model)
    if found.startswith("; did you mean "):
        settings = found.removeprefix("; did you mean ").rstrip("?").split(" or ")
        assert set(settings) <= {key for key, _ in leaves(model)}
        assert not set(settings) & set(Config.model_fields)


def test_a_hint_converts_keys_to_the_form_of_the_message():
    """A hint converts keys to the form of the message."""
    assert hint("num_env", PPO, lambda key: f"<{key}>") == "; did you mean <env.num_envs>?"
    assert hint("lr", PPO, lambda key: f"<{key}>") == "; use <algo.learning_rate>"
    assert hint("lr", SAC) == "; use algo.actor_lr, algo.critic_lr or algo.alpha_lr"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["algo.head=c51", "algo.v_min=5", "algo.v_max=2"], "algo.v_min=5: must be below v_max=2"),
        (["algo.noisy=true", "algo.layer_norm=true"], "algo.noisy=true: has no layer_norm; set one of them to false"),
    ],
)
def test_settings_that_do_not_fit_together_are_named_alone(overrides, line):
    """Settings of a section that don't fit together are named without the rest of the section."""
    with pytest.raises(ConfigError) as caught:
        load_config("dqn", overrides)
    assert caught.value.mistakes == [line]


def test_settings_that_do_not_fit_together_may_begin_with_words():
    """A message that begins with no value is shown after the section."""
    with pytest.raises(ConfigError) as caught:
        load_config("ppo", ["algo.anneal=true", "algo.desired_kl=0.01"])
    (line,) = caught.value.mistakes
    assert line.startswith("algo: desired_kl adapts the learning rate, so anneal can't schedule it")
