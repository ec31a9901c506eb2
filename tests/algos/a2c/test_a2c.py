"""A2C's losses, data and optimizer."""

import math

import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch import tensor
from torch.optim import RMSprop

from sheeprl.algos.a2c.a2c import A2C
from sheeprl.algos.a2c.args import A2CArgs
from sheeprl.algos.a2c.loss import policy_loss
from sheeprl.algos.base import Spaces, Step
from sheeprl.models.optimizers import RMSpropTF

VECTOR = spaces.Box(-1.0, 1.0, (3,))


def build_a2c(**args):
    """Build A2C for observations of 3 numbers and 3 actions."""
    return A2C(A2CArgs(name="a2c", hidden_sizes=(8,), **args), Spaces(VECTOR, spaces.Discrete(3)))


def test_policy_loss():
    """The policy loss and its gradient equal hand-computed values."""
    logprob = tensor([-1.0, -0.5, -3.0]).requires_grad_()
    # −(0.5 · −1 · 2 + 0.25 · −0.5 · −4 + 0.25 · −3 · 1) = 1 − 0.5 + 0.75
    loss = policy_loss(logprob, tensor([2.0, -4.0, 1.0]), tensor([0.5, 0.25, 0.25]))
    assert loss.item() == 1.25
    loss.backward()
    assert logprob.grad.tolist() == [-1, 1, -0.25]


def test_loss_is_the_weighted_sum_of_its_terms():
    """The total loss and its metrics equal hand-computed values."""
    algorithm = build_a2c(value_coef=0.25, entropy_coef=0.5, final_entropy_coef=0.1)
    agent = algorithm.build_agent()
    for parameter in agent.parameters():
        parameter.data.zero_()  # uniform policy over 3, V = 0
    rows = {
        "obs": torch.rand(2, 3),
        "action": tensor([0, 2]),
        "advantage": tensor([2.0, -4.0]),
        "returns": tensor([1.0, 3.0]),
        "sample_weight": tensor([0.5, 0.5]),
    }
    (phase,) = algorithm.phases(Step(gradient_step=0, progress=0.75))
    carry = {name: tensor(value) for name, value in phase.scalars.items()}
    loss = algorithm.loss(agent, TensorDict(rows, [2]), {}, carry)
    # policy: ln 3 · (2 − 4) / 2; value: (1 + 9) / 2; entropy: −ln 3, with the coefficient 0.5 − 0.75 · 0.4
    assert loss.metrics["Loss/policy_loss"].item() == pytest.approx(-math.log(3))
    assert loss.metrics["Loss/value_loss"].item() == pytest.approx(5)
    assert loss.metrics["Loss/entropy_loss"].item() == pytest.approx(-math.log(3))
    assert loss.value.item() == pytest.approx(-math.log(3) + 0.25 * 5 - 0.2 * math.log(3))


def test_a_whole_rollout_gives_one_gradient_step():
    """A round takes one gradient step on all rows, with raw advantages."""
    data = build_a2c().data()
    assert (data.rollout_steps, data.due_gradient_steps(0, 0, rows=40), data.standardize) == (5, 1, ())
    assert build_a2c(normalize_advantage=True).data().standardize == ("advantage",)


def test_the_learning_rate_can_decay():
    """`final_learning_rate` scales the learning rate linearly."""
    step = Step(gradient_step=0, progress=0.75)
    assert build_a2c().phases(step)[0].lr_scale == 1
    assert build_a2c(learning_rate=1e-3, final_learning_rate=5e-4).phases(step)[0].lr_scale == pytest.approx(0.625)


@pytest.mark.parametrize(("rmsprop_tf", "kind"), [(True, RMSpropTF), (False, RMSprop)])
def test_the_kind_of_rmsprop_can_be_chosen(rmsprop_tf, kind):
    """`rmsprop_tf` chooses TensorFlow's or torch's RMSprop."""
    spec = build_a2c(rmsprop_tf=rmsprop_tf, rmsprop_alpha=0.9).optimizers()["agent"]
    optimizer = spec.build([torch.nn.Parameter(torch.zeros(1))])
    assert type(optimizer) is kind and optimizer.defaults["alpha"] == 0.9 and optimizer.defaults["eps"] == 1e-5
