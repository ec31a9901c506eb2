"""TD3's targets and losses against hand-computed values."""

import pytest
from torch import tensor

from sheeprl.algos.td3.loss import actor_loss, critic_target, smoothed_action


def test_smoothed_action():
    """The noise is scaled and clipped, then the action is clipped to [−1, 1]."""
    action = smoothed_action(tensor([[0.5, -0.5, 0.9]]), tensor([[1.0, -10.0, 10.0]]), std=0.2, clip=0.3)
    assert action.tolist() == [pytest.approx([0.7, -0.8, 1.0])]


def test_critic_target():
    """The target is the minimum of both critics and doesn't bootstrap after termination."""
    next_q = tensor([[4.0, 6.0, -2.0], [1.0, 0.0, 8.0]])
    target = critic_target(tensor([1.0, 2.0, 0.0]), tensor([0.5, 0.0, 0.5]), next_q)
    assert target.tolist() == [1.5, 2.0, -1.0]


def test_actor_loss():
    """The actor maximizes the weighted mean of the first critic."""
    q = tensor([[1.0, 5.0], [-9.0, -9.0]])
    assert actor_loss(q, tensor([0.5, 0.5])).item() == -3
    assert actor_loss(q, tensor([0.0, 1.0])).item() == -5
