"""PPO's losses against hand-computed values."""

import math

import pytest
import torch
from torch import tensor

from sheeprl.algos.ppo.loss import (
    adapted_scale,
    approximate_kl,
    clipped_policy_loss,
    clipped_value_loss,
    discounted_return,
    entropy_loss,
    value_loss,
)


def test_discounted_return():
    """The sum of past rewards is discounted and restarts in the first row of an episode."""
    previous, reward, is_first = tensor([4.0, 4.0]), tensor([1.0, 0.0]), tensor([False, True])
    assert discounted_return(previous, reward, is_first, 0.5).tolist() == [3, 0]


def test_clipped_policy_loss():
    """The clipped loss equals hand-computed values on both sides of the clip."""
    # ratios 1.5 and 0.5 on positive advantages give 1.2 (clipped) and 0.5; 1.1 and 0.7 on −2 and −1 give
    # −2.2 and −0.8 (clipped), the smaller of the two terms each. −(1.2 + 0.5 − 2.2 − 0.8) / 4 = 0.325
    logprob = tensor([1.5, 0.5, 1.1, 0.7]).log() - 3
    advantage, weight = tensor([1.0, 1, -2, -1]), torch.full((4,), 0.25)
    loss = clipped_policy_loss(logprob, torch.full((4,), -3.0), advantage, weight, tensor(0.2))
    assert loss.item() == pytest.approx(0.325)


def test_clipped_policy_loss_has_no_gradient_where_it_is_clipped():
    """Clipped samples have no gradient, the others have the hand-computed one."""
    logprob = tensor([1.5, 0.5, 1.1, 0.7]).log().requires_grad_()
    advantage = tensor([1.0, 1, -2, -1])
    clipped_policy_loss(logprob, torch.zeros(4), advantage, torch.full((4,), 0.25), tensor(0.2)).backward()
    # d/dlogprob of −ratio · A / 4: 0 (clipped), −0.5 / 4, 2.2 / 4, 0 (clipped)
    assert logprob.grad.tolist() == pytest.approx([0, -0.125, 0.55, 0])


def test_value_loss():
    """The value loss is half the weighted squared error."""
    # 0.5·(1 − 0)² + 0.25·(2 − 2)² + 0.25·(4 − 1)²
    assert value_loss(tensor([1.0, 2, 4]), tensor([0.0, 2, 1]), tensor([0.5, 0.25, 0.25])).item() == 2.75


def test_clipped_value_loss():
    """The clipped value loss is the larger of both errors, and has no gradient where the clipped one is."""
    # V − V_old: 1, −1, 0.25; clip ½, so V_clip = 0.5, −0.5, 0.25
    # R = 2: max(1, 2.25); R = −4: max(9, 12.25); R = 0: both 0.0625
    value, weight = tensor([1.0, -1.0, 0.25]).requires_grad_(), tensor([0.5, 0.25, 0.25])
    loss = clipped_value_loss(value, torch.zeros(3), tensor([2.0, -4.0, 0.0]), weight, 0.5)
    assert loss.item() == 0.5 * 2.25 + 0.25 * 12.25 + 0.25 * 0.0625
    loss.backward()
    assert value.grad.tolist() == [0, 0, 0.25 * 2 * 0.25]
    # The clip doesn't hold a value back that moves away from the return: V = −1, V_old = 0, R = 2: max(9, 6.25)
    assert clipped_value_loss(tensor([-1.0]), tensor([0.0]), tensor([2.0]), tensor([1.0]), 0.5).item() == 9


@pytest.mark.parametrize(
    ("scale", "kl", "expected"),
    [
        (1.0, 0.021, 1 / 1.5),  # above twice the desired divergence
        (1.0, 0.019, 1.0),
        (1.0, 0.006, 1.0),
        (1.0, 0.004, 1.5),  # below half of it
        (1.0, 0.0, 1.0),  # nothing was learned yet
        (0.6, 0.021, 0.5),  # the bounds
        (1.9, 0.004, 2.0),
    ],
)
def test_adapted_scale(scale, kl, expected):
    """The learning rate follows rsl_rl's rule within its bounds."""
    assert adapted_scale(tensor(scale), tensor(kl), 0.01, low=0.5, high=2.0).item() == pytest.approx(expected)


def test_entropy_loss():
    """The entropy loss is the negative weighted entropy."""
    assert entropy_loss(tensor([1.0, 3.0, 50.0]), tensor([0.5, 0.5, 0.0])).item() == -2


def test_approximate_kl():
    """The estimate equals hand-computed values and is 0 for equal policies."""
    # ratio 2: 1 − ln 2; ratio ½: −½ + ln 2
    logprob, old = tensor([math.log(2.0), 0.0]), tensor([0.0, math.log(2.0)])
    assert approximate_kl(logprob, old, tensor([1.0, 0.0])).item() == pytest.approx(1 - math.log(2))
    assert approximate_kl(logprob, old, tensor([0.0, 1.0])).item() == pytest.approx(math.log(2) - 0.5)
    assert approximate_kl(logprob, old, tensor([0.5, 0.5])).item() == pytest.approx(0.25)
    assert approximate_kl(old, old, tensor([0.5, 0.5])).item() == 0
