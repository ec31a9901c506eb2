"""SAC's actor, critics, encoder and targets."""

import numpy as np
import torch
from gymnasium import spaces

from sheeprl.algos.base import Spaces
from sheeprl.algos.sac.agent import SACAgent
from sheeprl.algos.sac.args import SACArgs


def build_agent():
    """Build an agent for observations of 3 numbers and 2 actions."""
    observation, action = spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-1.0, 1.0, (2,))
    return SACAgent(Spaces(observation, action), SACArgs(name="sac", hidden_sizes=(8,)))


def test_target_critics_start_as_copies_without_gradients():
    """Target critics start as copies without gradients, and the twin critics differ."""
    agent = build_agent()
    pairs = list(zip(agent.critic.parameters(), agent.critic_target.parameters(), strict=True))
    assert all(torch.equal(online, target) and not target.requires_grad for online, target in pairs)
    first, second = agent.critic(torch.rand(4, 3), torch.rand(4, 2))
    assert not torch.allclose(first, second)  # the twin critics differ


def pixel_agent(action, **args):
    """Build an agent for a Dict of a picture and a vector."""
    observation = spaces.Dict({"state": spaces.Box(-1.0, 1.0, (3,)), "rgb": spaces.Box(0, 255, (16, 16, 3), np.uint8)})
    return SACAgent(Spaces(observation, action), SACArgs(name="sac", hidden_sizes=(8,), cnn_features=6, **args))


def test_vectors_need_no_encoder():
    """Parameters of an agent for vectors are those of networks and temperature."""
    names = [name.rpartition(".")[0] for name, _ in build_agent().named_parameters()]
    layers = [f"{each}.networks.{i}.{j}" for each in ("critic", "critic_target") for i in (0, 1) for j in (0, 2)]
    assert list(dict.fromkeys(names)) == ["policy.network.0", "policy.network.2", *layers, "alpha"]


def test_pictures_pass_a_shared_encoder_and_a_bottleneck_each():
    """Actor and critics project the features of pictures; vectors are joined unchanged."""
    agent = pixel_agent(spaces.Box(-1.0, 1.0, (2,)), cnn="small")
    obs = {"state": torch.rand(4, 3), "rgb": torch.randint(256, (4, 16, 16, 3), dtype=torch.uint8)}
    features = agent.policy.encoder(obs)
    assert features.shape == (4, 16 * 14 * 14 + 3)
    projected = agent.critic.trunk(features)
    assert projected.shape == (4, 9) and torch.equal(projected[:, 6:], obs["state"])
    torch.testing.assert_close(projected[:, :6].atanh().mean(-1), torch.zeros(4), atol=1e-4, rtol=0)
    assert not torch.allclose(projected[:, :6], agent.policy.bottleneck(features)[:, :6])
    assert torch.equal(agent.encoder_target(obs), features)
    assert not any(parameter.requires_grad for parameter in agent.encoder_target.parameters())
    assert agent.policy(obs).shape == (4, 4) and agent.critic(features, torch.rand(4, 2)).shape == (2, 4)


def test_discrete_actions_have_one_output_each():
    """With discrete actions the actor has a logit and each critic a value per choice."""
    agent = pixel_agent(spaces.Discrete(5), mlp_keys=("state",), cnn_keys=())
    obs = {"state": torch.rand(4, 3)}
    assert agent.policy(obs).shape == (4, 5)
    assert agent.critic(agent.policy.encoder(obs), None).shape == (2, 4, 5)
