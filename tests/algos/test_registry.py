"""Algorithms by registered name and by path."""

import pytest

from sheeprl.algos import registry
from sheeprl.algos.ppo.args import PPOArgs
from sheeprl.algos.registry import UnknownAlgorithmError


def test_name_and_both_paths_lead_to_the_arguments_class():
    assert registry.args_class("ppo") is PPOArgs
    assert registry.args_class("sheeprl.algos.ppo.args:PPOArgs") is PPOArgs
    assert registry.args_class("sheeprl.algos.ppo.ppo:PPO") is PPOArgs


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_name", "unknown algorithm 'no_such_name'"),
        ("no_such_module:Class", "No module named 'no_such_module'"),
        ("sheeprl.algos.ppo.ppo:Missing", r"module sheeprl\.algos\.ppo\.ppo has no Missing"),
        ("sheeprl.algos.ppo.agent:Actor", "neither an Algorithm nor its AlgoArgs"),
    ],
)
def test_wrong_names_and_paths_are_rejected(name, message):
    with pytest.raises(UnknownAlgorithmError, match=message):
        registry.args_class(name)


def test_path_needs_a_class():
    with pytest.raises(UnknownAlgorithmError, match=r"not of the form package\.module:Class"):
        registry.load_object("sheeprl.algos.ppo.ppo")
