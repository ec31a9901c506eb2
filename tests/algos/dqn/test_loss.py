"""Q-learning's targets and losses against hand-computed values."""

import pytest
import torch
from torch import tensor

from sheeprl.algos.dqn.loss import (
    categorical_divergence,
    env_epsilon,
    huber,
    project,
    q_target,
    quantile_huber,
)


def test_huber_is_quadratic_near_zero_and_linear_beyond():
    """The gradient is the error, clipped to the width of the quadratic part."""
    error = tensor([-3.0, -0.5, 0.0, 1.0, 3.0], requires_grad=True)
    loss = huber(error)
    assert loss.tolist() == [2.5, 0.125, 0.0, 0.5, 2.5]
    loss.sum().backward()
    assert error.grad.tolist() == [-1.0, -0.5, 0.0, 1.0, 1.0]
    assert huber(tensor([3.0]), 2.0).item() == 4.0


def test_q_target():
    """The target doesn't bootstrap after termination."""
    target = q_target(tensor([1.0, 2.0]), tensor([0.5, 0.0]), tensor([4.0, 9.0]))
    assert target.tolist() == [3.0, 2.0]


def test_projection_splits_probability_between_neighbours():
    """Atoms 0, 1, 2: mass that falls between two atoms is shared by its distance to them."""
    support = tensor([0.0, 1.0, 2.0])
    probabilities = tensor([[0.2, 0.3, 0.5], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    reward, discount = tensor([0.25, 1.5, -7.0, 0.0]), tensor([0.5, 0.0, 0.5, 1.0])
    found = project(probabilities, reward, discount, support)
    # row 0: atoms move to 0.25, 0.75 and 1.25, with mass 0.2, 0.3 and 0.5
    expected = [
        [0.2 * 0.75 + 0.3 * 0.25, 0.2 * 0.25 + 0.3 * 0.75 + 0.5 * 0.75, 0.5 * 0.25],
        [0.0, 0.5, 0.5],  # terminated: all mass at the reward 1.5
        [1.0, 0.0, 0.0],  # below the lowest atom
        [0.0, 0.5, 0.5],  # unchanged
    ]
    torch.testing.assert_close(found, tensor(expected))


def test_categorical_divergence():
    """The divergence is 0 for equal distributions, and its gradient is that of the cross-entropy."""
    target = tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
    logits = tensor([[1.0, 1.0, -1e4], [0.0, 0.0, 0.0]], requires_grad=True)
    loss = categorical_divergence(logits.log_softmax(-1), target)
    assert loss.tolist() == pytest.approx([0.0, 1.0986123], abs=1e-6)
    loss.sum().backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(-1) - target)


def test_quantile_huber_of_given_fractions():
    """The loss of quantiles at given fractions equals a hand-computed value."""
    quantiles, fraction = tensor([[1.0, 2.0]]), tensor([[0.25, 0.9]])
    # Errors of the targets 1.5 and 4: 0.5 and 3 for the first quantile, −0.5 and 2 for the second one.
    first = (0.25 * 0.125 + 0.25 * 2.5) / 2
    second = (0.1 * 0.125 + 0.9 * 1.5) / 2
    assert quantile_huber(quantiles, tensor([[1.5, 4.0]]), fraction).item() == pytest.approx(first + second)


def test_quantile_huber():
    """Two quantiles (τ = ¼ and ¾) against targets 0 and 4, by hand."""
    quantiles = tensor([[0.0, 1.0]])
    # i = 0: u = 0, 4: ¼ · 0, ¼ · 3.5; i = 1: u = −1 (weight |¾ − 1| = ¼), 3 (¾): ¼ · ½, ¾ · 2.5
    expected = (0.25 * 3.5) / 2 + (0.25 * 0.5 + 0.75 * 2.5) / 2
    assert quantile_huber(quantiles, tensor([[0.0, 4.0]])).item() == pytest.approx(expected)


def test_quantiles_minimize_the_loss_of_their_distribution():
    """Gradient descent moves quantiles to those of the target."""
    target = torch.linspace(0.0, 100.0, 101)[None]
    quantiles = torch.zeros(1, 4, requires_grad=True)
    optimizer = torch.optim.Adam([quantiles], lr=1.0)
    for _ in range(400):
        optimizer.zero_grad()
        quantile_huber(quantiles, target).sum().backward()
        optimizer.step()
    assert quantiles[0].tolist() == pytest.approx([12.5, 37.5, 62.5, 87.5], abs=2.0)


def test_every_environment_has_its_own_epsilon():
    """Ape-X's epsilons run from the base to its eighth power."""
    assert env_epsilon(tensor([0.0, 0.5, 1.0]), 0.5, 7.0).tolist() == pytest.approx([0.5, 0.5**4.5, 0.5**8])
