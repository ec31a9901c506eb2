"""Gradients of two ranks average to those of one, for every algorithm that learns from a replay."""

import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict

from sheeprl.algos.base import Spaces, Step
from sheeprl.algos.build import build_algorithm
from sheeprl.algos.registry import args_class

SPACES = Spaces(spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-1.0, 1.0, (2,)))
ARGS = {
    "sac": {"critics": 4, "target_subset": 2, "prioritized": True},
    "droq": {"dropout": 0.3, "policy_delay": 1},
    "td3": {"policy_delay": 1},
}


def make_batch(samples, prioritized):
    """Return random transitions of the whole group."""
    rows = {name: torch.rand(samples, size) for name, size in (("obs", 3), ("next_obs", 3), ("action", 2))}
    rows |= {"reward": torch.randn(samples), "terminated": torch.rand(samples) < 0.3}
    rows |= {"sample_weight": torch.full((samples,), 1 / samples)}
    return TensorDict(rows | ({"importance": torch.rand(samples)} if prioritized else {}), [samples])


def gradients(phases, agent, batch, noise):
    """Return the gradients of all phases, joined."""
    carry, found = {}, []
    for phase, drawn in zip(phases, noise, strict=True):
        loss = phase.loss(agent, batch, drawn, carry)
        carry |= loss.carry
        parameters = [parameter for parameter in agent.parameters() if parameter.requires_grad]
        found += torch.autograd.grad(loss.value, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in found])


@pytest.mark.parametrize("algo", ARGS)
def test_two_ranks_equal_one(algo):
    """The mean of the gradients of two halves of a batch is the gradient of the whole."""
    torch.manual_seed(0)
    args = args_class(algo)(name=algo, hidden_sizes=(8,), **ARGS[algo])
    algorithm = build_algorithm(args, SPACES)
    agent, phases = algorithm.build_agent(), algorithm.phases(Step(0, 0.0))
    batch, generator = make_batch(16, args.prioritized), torch.Generator().manual_seed(0)
    noise = [phase.noise(torch.Size([16]), generator) if phase.noise else {} for phase in phases]
    parts = []
    for rank in range(2):
        part = batch[rank::2].update({"sample_weight": torch.full((8,), 1 / 8)})
        drawn = [{name: values[rank::2] for name, values in one.items()} for one in noise]
        parts.append(gradients(phases, agent, part, drawn))
    torch.testing.assert_close((parts[0] + parts[1]) / 2, gradients(phases, agent, batch, noise))
