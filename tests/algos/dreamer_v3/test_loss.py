"""Test DreamerV3's formulas against hand-computed values."""

import torch
from torch import tensor

from sheeprl.algos.dreamer.loss import imagined_returns, imagined_weights, mean
from sheeprl.algos.dreamer_v3.loss import policy_loss, replayed_returns


def test_means_are_weighted_by_sample():
    """The last axis holds the samples; a weight of 0 excludes one."""
    values = tensor([[1.0, 2.0, 9.0], [3.0, 4.0, 9.0]])
    assert mean(values, tensor([0.5, 0.5, 0.0])).item() == 2.5
    assert mean(values.expand(5, 2, 3), tensor([0.5, 0.5, 0.0])).item() == 2.5


def test_imagined_returns_by_hand():
    """The predicted continuation discounts, and the first reward and continuation don't count."""
    reward, continues = tensor([[9.0], [1.0], [2.0]]), tensor([[0.9], [0.5], [0.8]])
    value = tensor([[9.0], [10.0], [20.0]])
    last = 2 + 0.8 * 20
    first = 1 + 0.5 * (0.05 * 10 + 0.95 * last)
    torch.testing.assert_close(imagined_returns(reward, continues, value, 0.95), tensor([[first], [last]]))
    torch.testing.assert_close(imagined_weights(continues, 0.9), tensor([[1.0], [0.5], [0.4]]))


def test_replayed_returns_end_with_the_episode():
    """A terminated row bootstraps from 0, a truncated one from its imagined return."""
    reward = tensor([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0], [2.0, 2.0]])
    terminated = tensor([[False, False], [True, False], [False, False], [False, False]])
    is_last = tensor([[False, False], [True, True], [False, False], [False, False]])
    bootstrap = tensor([[9.0, 9.0], [10.0, 10.0], [20.0, 20.0], [30.0, 30.0]])
    returns = replayed_returns(reward, terminated, is_last, bootstrap, 0.5, 0.75)
    last = 2 + 0.5 * 30
    torch.testing.assert_close(returns[0], tensor([1.0, 1 + 0.5 * 10]))
    torch.testing.assert_close(returns[2], tensor([last, last]))


def test_policy_loss_by_hand():
    """Advantages and weights have no gradient; the entropy is a bonus."""
    logprob, advantage = (
        tensor([[[-1.0]], [[-2.0]]], requires_grad=True),
        tensor([[[2.0]], [[1.0]]], requires_grad=True),
    )
    entropy, reached = torch.ones(2, 1, 1), tensor([[[1.0]], [[0.5]]], requires_grad=True)
    loss = policy_loss(logprob, advantage, entropy, reached, 0.1, tensor([1.0]))
    torch.testing.assert_close(loss.detach(), tensor(-((-2 + 0.1) + 0.5 * (-2 + 0.1)) / 2))
    gradient, *others = torch.autograd.grad(loss, [logprob, advantage, reached], allow_unused=True)
    assert gradient.flatten().tolist() == [-1.0, -0.25] and others == [None, None]
