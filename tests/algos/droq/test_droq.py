"""DroQ's phases and noise."""

import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch import tensor

from sheeprl.algos.base import Spaces, Step
from sheeprl.algos.droq.args import DroQArgs
from sheeprl.algos.droq.droq import DroQ


def build_droq(**args):
    """Build DroQ for observations of 3 numbers and 2 actions."""
    observation, action = spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-1.0, 1.0, (2,))
    return DroQ(DroQArgs(name="droq", hidden_sizes=(8,), **args), Spaces(observation, action))


def batch():
    """Return two transitions."""
    rows = {name: torch.rand(2, size) for name, size in (("obs", 3), ("next_obs", 3), ("action", 2))}
    flags = {"terminated": tensor([False, True]), "reward": tensor([1.0, 2.0]), "sample_weight": tensor([0.5, 0.5])}
    return TensorDict({**rows, **flags}, [2])


def test_one_policy_step_in_twenty_gradient_steps():
    """By default twenty gradient steps follow a policy step, and the last one trains the actor."""
    algorithm = build_droq()
    assert algorithm.data().replay_ratio == 20
    sizes = [len(algorithm.phases(Step(step, 0.0))) for step in range(40)]
    assert sizes == ([1] * 19 + [3]) * 2


def test_losses_use_independent_dropout():
    """The critics' loss depends on both seeds, the actor's on its own."""
    algorithm = build_droq(dropout=0.5)
    agent, rows = algorithm.build_agent(), batch()
    for loss, draw, names in (
        (algorithm.critic_loss, algorithm.critic_noise, ("seed", "target_seed")),
        (algorithm.actor_loss, algorithm.actor_noise, ("seed",)),
    ):
        noise = draw(torch.Size([2]), torch.Generator().manual_seed(0))
        assert all(noise[name].shape == (2,) and noise[name].dtype == torch.int64 for name in names)
        value = loss(agent, rows, noise, {}).value
        assert torch.equal(value, loss(agent, rows, noise, {}).value)
        for name in names:
            assert not torch.equal(value, loss(agent, rows, {**noise, name: noise[name] + 1}, {}).value)
