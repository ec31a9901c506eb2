"""Two ranks learn what one learns: the gradients of a replay's batches, and whole updates of every algorithm."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch import nn

from sheeprl.actors.warmup import dummy_batches
from sheeprl.algos.base import Spaces, Step
from sheeprl.algos.build import build_algorithm
from sheeprl.algos.registry import args_class, registered
from sheeprl.config import defaults
from tests.helpers.algorithms import Small, is_discrete
from tests.helpers.ranks import trained
from tests.helpers.runs import largest_difference

VECTOR, BOX = spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-1.0, 1.0, (2,))
PICTURE = spaces.Box(0, 255, (6, 6, 3), np.uint8)
CASES = {  # algorithm, spaces, arguments
    "sac": ("sac", Spaces(VECTOR, BOX), {"critics": 4, "target_subset": 2, "prioritized": True}),
    "sac, discrete": ("sac", Spaces(VECTOR, spaces.Discrete(3)), {}),
    "sac, pixels": ("sac", Spaces(PICTURE, BOX), {"random_shift": 2}),
    "sac_ae": ("sac_ae", Spaces(PICTURE, BOX), {"policy_delay": 1, "latent_penalty": 0.1}),
    "droq": ("droq", Spaces(VECTOR, BOX), {"dropout": 0.3, "policy_delay": 1}),
    "td3": ("td3", Spaces(VECTOR, BOX), {"policy_delay": 1}),
    "dqn, iqn": ("dqn", Spaces(VECTOR, spaces.Discrete(3)), {"head": "iqn", "quantiles": 4, "prioritized": True}),
}


def random_rows(space, samples):
    """Return random elements of a space."""
    if isinstance(space, spaces.Discrete):
        return torch.randint(space.n, (samples,))
    if space.dtype == np.uint8:
        return torch.randint(256, (samples, *space.shape), dtype=torch.uint8)
    return torch.rand(samples, *space.shape)


def make_batch(made_for, samples, prioritized):
    """Return random transitions of the whole group."""
    kinds = {"obs": made_for.observation, "next_obs": made_for.observation, "action": made_for.action}
    rows = {name: random_rows(space, samples) for name, space in kinds.items()}
    rows |= {"reward": torch.randn(samples), "terminated": torch.rand(samples) < 0.3}
    rows |= {"sample_weight": torch.full((samples,), 1 / samples)}
    return TensorDict(rows | ({"importance": torch.rand(samples)} if prioritized else {}), [samples])


def smoothen(module):
    """Replace each ReLU by a smooth function: a rounding must not move a unit across a kink."""
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU):
            setattr(module, name, nn.SiLU())
        smoothen(child)


def gradients(phases, agent, batch, noise):
    """Return the gradients of all phases, joined."""
    carry, found = {}, []
    for phase, drawn in zip(phases, noise, strict=True):
        loss = phase.loss(agent, batch, drawn, carry)
        carry |= loss.carry
        parameters = [parameter for parameter in agent.parameters() if parameter.requires_grad]
        found += torch.autograd.grad(loss.value, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in found])


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one(case):
    """The mean of the gradients of two halves of a batch is the gradient of the whole."""
    torch.manual_seed(0)
    algo, made_for, chosen = CASES[case]
    args = args_class(algo)(name=algo, hidden_sizes=(8,), **chosen)
    algorithm = build_algorithm(args, made_for)
    agent, phases = algorithm.build_agent(), algorithm.phases(Step(0, 0.0))
    smoothen(agent)
    batch, generator = make_batch(made_for, 16, args.prioritized), torch.Generator().manual_seed(0)
    noise = [phase.noise(torch.Size([16]), generator) if phase.noise else {} for phase in phases]
    parts = []
    for rank in range(2):
        part = batch[rank::2].update({"sample_weight": torch.full((8,), 1 / 8)})
        drawn = [{name: values[rank::2] for name, values in one.items()} for one in noise]
        parts.append(gradients(phases, agent, part, drawn))
    torch.testing.assert_close((parts[0] + parts[1]) / 2, gradients(phases, agent, batch, noise))


NOISY = ["algo.noisy=true", "algo.prioritized=true", "algo.head=c51", "algo.dueling=true"]
UPDATES = {
    **{name: (name, []) for name in registered()},
    "dqn, noisy": ("dqn", NOISY),
    "dqn, iqn": ("dqn", ["algo.head=iqn"]),
}


@pytest.mark.parametrize("case", UPDATES)
def test_two_ranks_learn_what_one_learns(tmp_path, monkeypatch, case):
    """An update of two ranks, each with its part of the batches, equals that of one rank."""
    name, overrides = UPDATES[case]
    args = args_class(name)
    observation = VECTOR if "vector" in args.observations else PICTURE
    made_for = Spaces(observation, spaces.Discrete(3) if is_discrete(name) else BOX)
    config = defaults.fill_in(Small(name).config(tmp_path, "run.mode=decoupled", "trainer.compile=false", *overrides))
    order, block = dummy_batches(config, build_algorithm(config.algo, made_for), 3)
    rng = np.random.default_rng(0)
    for key, values in block.items():
        if key.startswith(("obs", "next_obs", "reward")):
            random = rng.integers(256, size=values.shape) if values.dtype == np.uint8 else rng.random(values.shape)
            block[key] = random.astype(values.dtype)
    one, two = (trained(monkeypatch, config, made_for, world, 3, 0.0, order, block) for world in (1, 2))
    assert largest_difference(one, two) < 1e-5
