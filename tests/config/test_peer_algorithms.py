"""Test the names of algorithms in other libraries."""

import pytest

from sheeprl.algos import registry
from sheeprl.cli.names import shipped_files
from sheeprl.config import peer_algorithms
from sheeprl.config.loading import apply_overrides, inspect

KNOWN = [*shipped_files(), *registry.registered()]


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("rppo", "ppo_recurrent"),
        ("recurrent_ppo", "ppo_recurrent"),
        ("RecurrentPPO", "ppo_recurrent"),
        ("ppo-lstm", "ppo_recurrent"),
        ("PPO", "ppo"),
        ("ppo_continuous_action", "ppo"),
        ("sac_atari", "sac"),
        ("rainbow", "rainbow_atari"),
        ("sacd", "sac"),
        ("ddpg", "td3"),
        ("ddqn", "dqn algo.double=true"),
        ("C51", "dqn algo.head=c51"),
        ("nothing_like_it", None),
    ],
)
def test_a_name_elsewhere_leads_to_an_algorithm(name, use):
    """The name of an algorithm in another library leads to the words for it."""
    assert peer_algorithms.find(name, KNOWN) == use


def test_a_name_whose_target_is_missing_leads_nowhere():
    """A name leads only to an algorithm or a configuration that exists."""
    assert peer_algorithms.find("ape-x", ["apex_cartpole", "dqn"]) == "apex_cartpole"
    assert peer_algorithms.find("ape-x", ["dqn"]) is None


def test_every_use_is_valid():
    """Every use names settings that its algorithm or configuration has."""
    for use in peer_algorithms.known_uses(registry.registered()):
        name, *settings = use.split()
        tree = {"algo": {"name": name}, "env": {"id": "CartPole-v1"}}
        apply_overrides(tree, settings)
        assert inspect(tree)[1] == [], use


def test_an_algorithm_name_in_a_configuration_gets_the_hint():
    """The name of an algorithm elsewhere in `algo.name` gets the hint."""
    _, (mistake,) = inspect({"algo": {"name": "ddqn"}, "env": {"id": "CartPole-v1"}})
    assert mistake.endswith("; use algo.name=dqn algo.double=true")
