"""Parameters as views of a few flat vectors."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from sheeprl.algos.base import TargetUpdate
from sheeprl.learning.flat_parameters import FlatParameters, MovedParameterError


def build_agent():
    """Build an agent with an encoder, a critic, its target network and a recurrent decoder."""
    agent = nn.Module()
    agent.encoder = nn.Linear(2, 3)
    agent.critic = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    agent.decoder = nn.LSTM(3, 2)
    agent.target = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)).requires_grad_(False)
    return agent


def test_stepping_a_vector_steps_its_modules():
    """A change of a vector changes the parameters of its modules only."""
    agent = build_agent()
    before = {name: values.clone() for name, values in agent.state_dict().items()}
    flat = FlatParameters(agent, {"critic": ["critic", "encoder"], "decoder": ["decoder"]})
    assert all(torch.equal(values, before[name]) for name, values in agent.state_dict().items())
    (number,) = flat.of_group("decoder")
    with torch.no_grad():
        flat.vectors[number].add_(1.0)
    for name, values in agent.state_dict().items():
        assert torch.equal(values, before[name] + name.startswith("decoder")), name
    views = flat.views(flat.vectors)
    assert all(torch.equal(views[name], values) for name, values in agent.named_parameters())


def test_parameters_of_two_groups_form_one_vector():
    """Parameters that two groups train form one vector of both groups."""
    flat = FlatParameters(build_agent(), {"critic": ["critic", "encoder"], "decoder": ["encoder", "decoder"]})
    (shared,) = set(flat.of_group("critic")) & set(flat.of_group("decoder"))
    assert len(flat.vectors[shared]) == 2 * 3 + 3
    assert len(flat.of_group("critic")) == len(flat.of_group("decoder")) == 2
    trained = {number for group in ("critic", "decoder") for number in flat.of_group(group)}
    (target,) = set(range(len(flat.vectors))) - trained
    assert not flat.vectors[target].requires_grad


def test_target_with_its_networks_layout_updates_in_one_slice():
    """A target network with the layout of its online network has a single span."""
    agent = build_agent()
    flat = FlatParameters(agent, {"critic": ["critic", "encoder"], "decoder": ["decoder"]})
    (span,) = flat.spans(agent, TargetUpdate("critic", "target", 0.1))
    with torch.no_grad():
        flat.vectors[span.target][span.target_slice] = flat.vectors[span.online][span.online_slice]
    for target, online in zip(agent.target.parameters(), agent.critic.parameters(), strict=True):
        assert torch.equal(target, online)


def test_target_of_a_network_with_shared_parameters():
    """A target update covers parameters that its network shares with another one."""
    agent = nn.Module()
    shared = nn.Linear(2, 3)
    agent.policy, agent.critic = nn.Sequential(shared, nn.Linear(3, 1)), nn.Sequential(shared, nn.Linear(3, 1))
    agent.target = copy.deepcopy(agent.critic).requires_grad_(False)
    flat = FlatParameters(agent, {"policy": ["policy"], "critic": ["critic"]})
    with torch.no_grad():
        for vector in flat.vectors:
            vector += 1.0 if vector.requires_grad else 0.0
        for span in flat.spans(agent, TargetUpdate("critic", "target", 0.1)):
            flat.vectors[span.target][span.target_slice] = flat.vectors[span.online][span.online_slice]
    for target, online in zip(agent.target.parameters(), agent.critic.parameters(), strict=True):
        assert torch.equal(target, online)


def test_gradients_of_a_recurrent_network_reach_its_vector():
    """The gradient through an LSTM called with views equals that of a normal call."""
    agent = build_agent()
    flat = FlatParameters(agent, {"decoder": ["decoder"]})
    (number,) = flat.of_group("decoder")
    leaves = [vector.detach().requires_grad_(index == number) for index, vector in enumerate(flat.vectors)]
    weights = {name.removeprefix("decoder."): v for name, v in flat.views(leaves).items() if name.startswith("decoder")}
    inputs = torch.randn(5, 1, 3)
    functional_call(agent.decoder, weights, (inputs,))[0].sum().backward()
    gradient = leaves[number].grad
    agent.decoder(inputs)[0].sum().backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in agent.decoder.parameters()])
    torch.testing.assert_close(gradient, expected)


def test_a_parameter_that_leaves_its_vector_is_named():
    """A parameter whose memory was replaced is named, because training would not change it."""
    agent = build_agent()
    flat = FlatParameters(agent, {"decoder": ["decoder"]})
    agent.load_state_dict(agent.state_dict())
    flat.check()
    parameter = agent.decoder.bias_ih_l0
    parameter.data = parameter.data.clone()
    with pytest.raises(MovedParameterError, match=r"parameter 'decoder\.bias_ih_l0' was replaced"):
        flat.check()
