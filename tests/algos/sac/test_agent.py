"""SAC's actor, critics and target critics."""

import torch
from gymnasium import spaces
from torch import tensor

from sheeprl.algos.base import Spaces
from sheeprl.algos.sac.agent import SACAgent
from sheeprl.algos.sac.args import SACArgs


def build_agent():
    """Build an agent for observations of 3 numbers and 2 actions."""
    observation, action = spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-1.0, 1.0, (2,))
    return SACAgent(Spaces(observation, action), SACArgs(name="sac", hidden_sizes=(8,)))


def test_actor_clamps_log_std():
    """The actor clamps the log standard deviation to [−20, 2]."""
    policy = build_agent().policy
    with torch.no_grad():
        policy.network[-1].weight.zero_()
        policy.network[-1].bias.copy_(tensor([0.5, -0.5, -100.0, 100.0]))
    mean, log_std = policy(torch.rand(2, 3))
    assert mean.tolist() == [[0.5, -0.5]] * 2
    assert log_std.tolist() == [[-20.0, 2.0]] * 2


def test_target_critics_start_as_copies_without_gradients():
    """Target critics start as copies without gradients, and the twin critics differ."""
    agent = build_agent()
    pairs = list(zip(agent.critic.parameters(), agent.critic_target.parameters(), strict=True))
    assert all(torch.equal(online, target) and not target.requires_grad for online, target in pairs)
    first, second = agent.critic(torch.rand(4, 3), torch.rand(4, 2))
    assert not torch.allclose(first, second)  # the twin critics differ
