"""DroQ's critics: dropout by seed, layer normalization, places."""

import torch
from gymnasium import spaces

from sheeprl.algos.base import Spaces
from sheeprl.algos.droq.agent import DropoutNetwork, DroQAgent
from sheeprl.algos.droq.args import DroQArgs
from sheeprl.models import noise


def build_agent(**args):
    """Build an agent for observations of 3 numbers and 2 actions."""
    observation, action = spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-1.0, 1.0, (2,))
    return DroQAgent(Spaces(observation, action), DroQArgs(name="droq", hidden_sizes=(8, 6), **args))


def test_a_network_is_linear_dropout_norm_relu():
    """A network applies linear layer, dropout, layer normalization and ReLU, in this order."""
    network, x, seed = DropoutNetwork(3, (8, 6), 1, 0.5, place=4), torch.rand(5, 3), torch.arange(5)
    hidden = x
    for number in range(2):
        hidden = noise.dropout(network.layers[number](hidden), 0.5, seed, 4 + number)
        hidden = (hidden - hidden.mean(-1, keepdim=True)) / (hidden.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        hidden = hidden.relu()  # weight 1 and bias 0 of the normalization
    torch.testing.assert_close(network(x, seed), network.layers[2](hidden))


def test_critics_drop_by_the_seed_and_never_without_one():
    """Values depend on the seeds; without seeds they are those of all units."""
    critic, obs, action = build_agent(dropout=0.5).critic, torch.rand(4, 3), torch.rand(4, 2)
    first, second = noise.seeds(torch.Size([8]), torch.Generator()).split(4)
    assert torch.equal(critic(obs, action, first), critic(obs, action, first))
    assert not torch.allclose(critic(obs, action, first), critic(obs, action, second))
    assert torch.equal(critic(obs, action), critic(obs, action))
    assert not torch.allclose(critic(obs, action), critic(obs, action, first))


def test_places_of_all_layers_differ():
    """Each hidden layer of each critic draws at a separate position."""
    networks = build_agent(critics=3).critic.networks
    places = [network.place + number for network in networks for number in range(len(network.norms))]
    assert places == list(range(6))


def test_targets_start_as_copies():
    """Target critics start as copies without gradients, normalization included."""
    agent = build_agent()
    pairs = list(zip(agent.critic.parameters(), agent.critic_target.parameters(), strict=True))
    assert len(pairs) == 2 * 10
    assert all(torch.equal(online, target) and not target.requires_grad for online, target in pairs)
