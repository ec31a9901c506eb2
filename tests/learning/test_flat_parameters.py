"""Parameters as views into few vectors."""

import copy

import torch
from torch import nn
from torch.func import functional_call

from sheeprl.algos.base import TargetUpdate
from sheeprl.learning.flat_parameters import FlatParameters


def agent():
    made = nn.Module()
    made.encoder, made.critic, made.decoder = (
        nn.Linear(2, 3),
        nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)),
        nn.LSTM(3, 2),
    )
    made.target = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)).requires_grad_(False)
    return made


def test_a_stepped_vector_steps_its_modules():
    made = agent()
    before = {name: values.clone() for name, values in made.state_dict().items()}
    flat = FlatParameters(made, {"critic": ["critic", "encoder"], "decoder": ["decoder"]})
    assert all(torch.equal(values, before[name]) for name, values in made.state_dict().items())
    (number,) = flat.of_group("decoder")
    with torch.no_grad():
        flat.vectors[number].add_(1.0)
    for name, values in made.state_dict().items():
        assert torch.equal(values, before[name] + name.startswith("decoder")), name
    views = flat.views(flat.vectors)
    assert all(torch.equal(views[name], values) for name, values in made.named_parameters())


def test_what_two_groups_train_is_a_vector_of_both():
    flat = FlatParameters(agent(), {"critic": ["critic", "encoder"], "decoder": ["encoder", "decoder"]})
    (shared,) = set(flat.of_group("critic")) & set(flat.of_group("decoder"))
    assert len(flat.vectors[shared]) == 2 * 3 + 3
    assert len(flat.of_group("critic")) == len(flat.of_group("decoder")) == 2
    trained = {number for group in ("critic", "decoder") for number in flat.of_group(group)}
    (target,) = set(range(len(flat.vectors))) - trained
    assert not flat.vectors[target].requires_grad


def test_a_target_that_lies_like_its_network_follows_in_one_piece():
    made = agent()
    flat = FlatParameters(made, {"critic": ["critic", "encoder"], "decoder": ["decoder"]})
    (span,) = flat.spans(made, TargetUpdate("critic", "target", 0.1))
    with torch.no_grad():
        flat.vectors[span.target][span.target_slice] = flat.vectors[span.online][span.online_slice]
    for ours, theirs in zip(made.target.parameters(), made.critic.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_target_follows_a_part_that_others_have_too():
    made = nn.Module()
    shared = nn.Linear(2, 3)
    made.policy, made.critic = nn.Sequential(shared, nn.Linear(3, 1)), nn.Sequential(shared, nn.Linear(3, 1))
    made.target = copy.deepcopy(made.critic).requires_grad_(False)
    flat = FlatParameters(made, {"policy": ["policy"], "critic": ["critic"]})
    with torch.no_grad():
        for vector in flat.vectors:
            vector += 1.0 if vector.requires_grad else 0.0
        for span in flat.spans(made, TargetUpdate("critic", "target", 0.1)):
            flat.vectors[span.target][span.target_slice] = flat.vectors[span.online][span.online_slice]
    for ours, theirs in zip(made.target.parameters(), made.critic.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_gradients_reach_a_recurrent_networks_weights():
    made = agent()
    flat = FlatParameters(made, {"decoder": ["decoder"]})
    (number,) = flat.of_group("decoder")
    leaves = [vector.detach().requires_grad_(index == number) for index, vector in enumerate(flat.vectors)]
    weights = {name.removeprefix("decoder."): v for name, v in flat.views(leaves).items() if name.startswith("decoder")}
    inputs = torch.randn(5, 1, 3)
    functional_call(made.decoder, weights, (inputs,))[0].sum().backward()
    found = leaves[number].grad
    made.decoder(inputs)[0].sum().backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in made.decoder.parameters()])
    torch.testing.assert_close(found, expected)
