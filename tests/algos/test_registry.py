"""Algorithms by registered name and by path."""

import pytest

from sheeprl.algos import registry
from sheeprl.algos.ppo.args import PPOArgs
from sheeprl.algos.registry import UnknownAlgorithmError


def test_name_and_both_paths_lead_to_the_arguments_class():
    """The registered name and both paths return the arguments class."""
    assert registry.args_class("ppo") is PPOArgs
    assert registry.args_class("sheeprl.algos.ppo.args:PPOArgs") is PPOArgs
    assert registry.args_class("sheeprl.algos.ppo.ppo:PPO") is PPOArgs


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_name", "unknown algorithm 'no_such_name'"),
        ("no_such_module:Class", "no module named no_such_module; .* run sheeprl in the folder .* to PYTHONPATH"),
        ("sheeprl.algos.ppo.ppo:Missing", r"ppo has no Missing; use sheeprl\.algos\.ppo\.ppo:PPO$"),
        ("sheeprl.algos.ppo.args:Missing", r"args has no Missing; use sheeprl\.algos\.ppo\.args:PPOArgs$"),
        ("sheeprl.utils.text:Missing", "has no Missing; it defines no Algorithm and no AlgoArgs"),
        ("sheeprl.algos.ppo.agent:Actor", "neither an Algorithm nor its AlgoArgs"),
    ],
)
def test_wrong_names_and_paths_are_rejected(name, message):
    """Unknown names and paths raise an error that gives the cause."""
    with pytest.raises(UnknownAlgorithmError, match=message):
        registry.args_class(name)


def test_path_needs_a_class():
    """A path without a class raises an error."""
    with pytest.raises(UnknownAlgorithmError, match=r"not of the form package\.module:Class"):
        registry.load_object("sheeprl.algos.ppo.ppo")
