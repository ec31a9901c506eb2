"""Test symlog and two-hot distributions against NumPy."""

import numpy as np
import pytest
import torch

from sheeprl.models.symlog import TwoHot, symexp, symlog


def test_symlog_is_odd_and_inverted_by_symexp():
    """Values equal hand-computed ones."""
    x = torch.tensor([-np.e + 1, 0.0, 0.5, np.e**3 - 1], dtype=torch.float64)
    torch.testing.assert_close(symlog(x), torch.tensor([-1.0, 0.0, np.log(1.5), 3.0], dtype=torch.float64))
    torch.testing.assert_close(symexp(symlog(x)), x)


def two_hot_by_hand(bins, value):
    """Return the two-hot vector of a value."""
    target = np.zeros(len(bins))
    value = np.clip(value, bins[0], bins[-1])
    above = min(int(np.sum(bins <= value)), len(bins) - 1)
    share = (value - bins[above - 1]) / (bins[above] - bins[above - 1])
    target[above - 1], target[above] = 1 - share, share
    return target


@pytest.mark.parametrize("value", [0.0, 0.3, -2.5, 1e9, -1e9, float(np.expm1(2.0))])
def test_the_loss_is_the_cross_entropy_with_a_target_of_that_mean(value):
    """The loss equals NumPy's, and the target's mean is the value, or the nearest end of the grid."""
    two_hot = TwoHot(11, 4.0)
    grid = np.linspace(-4.0, 4.0, 11)
    bins = np.sign(grid) * np.expm1(np.abs(grid))
    np.testing.assert_allclose(two_hot.bins, bins, rtol=1e-5, atol=1e-6)
    target = two_hot_by_hand(bins, value)
    assert target @ bins == pytest.approx(np.clip(value, bins[0], bins[-1]))
    logits = torch.linspace(-1.0, 2.0, 11).square()
    logprob = logits.double().log_softmax(-1).numpy()
    loss = two_hot.loss(logits.expand(2, 3, -1), torch.full((2, 3), value))
    np.testing.assert_allclose(loss, np.full((2, 3), -(target * logprob).sum()), rtol=1e-4)


def test_equal_logits_have_the_mean_zero_exactly():
    """The bins reach e^20, so a sum in another order would give thousands."""
    two_hot = TwoHot()
    assert (two_hot.mean(torch.zeros(3, 255)) == 0).all()
    assert len(two_hot.bins) == 255 and two_hot.bins[127] == 0


def test_the_mean_of_a_two_hot_target_is_the_value():
    """The logarithm of a target, taken as logits, has the target's mean."""
    two_hot = TwoHot()
    for value in (0.0, 1.7, -123.0):
        target = torch.from_numpy(two_hot_by_hand(two_hot.bins.double().numpy(), value))
        assert two_hot.mean(target.log().float()).item() == pytest.approx(value, rel=1e-4, abs=1e-6)


def test_two_targets_take_one_softmax():
    """The cross entropy with a second target is added with its coefficient."""
    two_hot, logits = TwoHot(11, 4.0), torch.randn(5, 3, 11)
    one, other = torch.randn(5, 3), 3 * torch.randn(5, 3)
    expected = two_hot.loss(logits, one) + 0.7 * two_hot.loss(logits, other)
    torch.testing.assert_close(two_hot.loss(logits, one, other, 0.7), expected)
