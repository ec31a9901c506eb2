"""Algorithms of configurations."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from sheeprl.algos import registry
from sheeprl.algos.base import Algorithm, Spaces
from sheeprl.algos.build import algorithm_class, build_algorithm
from sheeprl.algos.ppo.args import PPOArgs
from sheeprl.algos.ppo.ppo import PPO

SPACES = Spaces(spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(2))


class SubclassOfPPO(PPO):
    """PPO under another path."""


@pytest.mark.parametrize("name", ["ppo", "sheeprl.algos.ppo.args:PPOArgs", "sheeprl.algos.ppo.ppo:PPO"])
def test_name_and_both_paths_build_the_algorithm(name):
    """The registered name and the paths of both classes build the same algorithm."""
    algorithm = build_algorithm(PPOArgs(name=name, gamma=0.5), SPACES)
    assert type(algorithm) is PPO
    assert algorithm.args.gamma == 0.5 and algorithm.spaces is SPACES


def test_path_of_a_subclass_builds_the_subclass():
    """The path of a subclass builds the subclass with its parent's arguments."""
    args = PPOArgs(name=f"{__name__}:SubclassOfPPO")
    assert algorithm_class(args) is SubclassOfPPO
    assert SubclassOfPPO.args_class() is PPOArgs


def test_path_of_another_class_is_rejected():
    """The path of a class that is no algorithm raises an error."""
    with pytest.raises(TypeError, match="Actor is not an Algorithm"):
        algorithm_class(PPOArgs(name="sheeprl.algos.ppo.agent:Actor"))


def test_algorithm_without_arguments_class_is_rejected():
    """An algorithm that names no arguments class raises an error."""

    class Unbound(Algorithm):
        """Algorithm that names no arguments class."""

    with pytest.raises(TypeError, match="Unbound names no arguments class"):
        Unbound.args_class()


@pytest.mark.parametrize("name", registry.registered())
def test_players_get_the_agents_policy(name):
    """`build_policy` builds the tensors of the agent's submodule `policy`, with the same initial numbers."""
    args = registry.args_class(name)
    action = spaces.Discrete(2) if "discrete" in args.actions else spaces.Box(-1.0, 1.0, (2,))
    seen = spaces.Box(0, 255, (8, 8, 3), np.uint8) if args.observations == ("pixels",) else spaces.Box(-1.0, 1.0, (3,))
    algorithm = build_algorithm(args(name=name), Spaces(seen, action))
    torch.manual_seed(0)
    agent = algorithm.build_agent().get_submodule("policy").state_dict()
    torch.manual_seed(0)
    policy = algorithm.build_policy().state_dict()
    assert policy.keys() == agent.keys() and all(torch.equal(policy[key], agent[key]) for key in agent)
