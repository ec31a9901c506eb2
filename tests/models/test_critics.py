"""Targets and errors of critics against hand-computed values."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn, tensor

from sheeprl.models.critics import (
    Critics,
    StackedCritics,
    discount,
    draw_subset,
    ensemble,
    loss_weight,
    priorities,
    squared_errors,
)
from sheeprl.models.mlp import mlp


def test_squared_errors():
    """The squared errors are weighted and summed over the critics."""
    # Q_1: ½·((1 − 0)² + (3 − 2)²) = 1; Q_2: ½·((2 − 0)² + (5 − 2)²) = 6.5
    q, target = tensor([[1.0, 3.0], [2.0, 5.0]]), tensor([0.0, 2.0])
    assert squared_errors(q, target, tensor([0.5, 0.5])).item() == 7.5
    assert squared_errors(q, target, tensor([1.0, 0.0])).item() == 5


def test_discount():
    """The discount is 0 after termination; n-step samples bring their own."""
    batch = TensorDict({"terminated": tensor([False, True]), "truncated": tensor([True, False])}, [2])
    assert discount(batch, 0.5).tolist() == [0.5, 0.0]
    assert discount(batch.update({"discount": tensor([0.125, 0.0])}), 0.5).tolist() == [0.125, 0.0]


def test_importance_weights_the_loss_and_the_priority_is_the_mean_error():
    """Only batches drawn by priority have importance weights and new priorities."""
    batch = TensorDict({"sample_weight": tensor([0.5, 0.5])}, [2])
    q, target = tensor([[1.0, 3.0], [2.0, 5.0]], requires_grad=True), tensor([0.0, 4.0])
    assert loss_weight(batch).tolist() == [0.5, 0.5] and priorities(q, target, batch) is None
    batch["importance"] = tensor([1.0, 0.25])
    assert loss_weight(batch).tolist() == [0.5, 0.125]
    found = priorities(q, target, batch)
    assert found.tolist() == [1.5, 1.0] and not found.requires_grad  # ½(1 + 2), ½(1 + 1)


def test_a_subset_is_drawn_without_replacement_and_is_the_same_for_all_samples():
    """Rows are equal, so every rank gets the same subset; all critics are drawn equally often."""
    generator, counts = torch.Generator().manual_seed(0), torch.zeros(5)
    for _ in range(1000):
        subset = draw_subset(5, 2, torch.Size([3]), generator)
        assert subset.shape == (3, 2) and (subset == subset[0]).all() and subset[0, 0] != subset[0, 1]
        counts[subset[0]] += 1
    assert ((counts - 400) ** 2 / 400).sum() < 15  # 4 degrees of freedom


@pytest.mark.parametrize("chosen", [None, torch.tensor([2, 0])])
def test_stacked_networks_equal_separate_ones(chosen):
    """Values and gradients of stacked networks are those of the separate ones."""
    networks = [mlp(5, (8, 6), 1) for _ in range(3)]
    critics, stacked = Critics(networks), ensemble(networks)
    assert type(stacked) is StackedCritics and type(ensemble(networks[:2])) is Critics
    obs, action = torch.rand(4, 3), torch.rand(4, 2, requires_grad=True)
    found = []
    for one in (critics, stacked):
        values = one(obs, action, chosen=chosen)
        weight = one.networks[2][2].weight if one is critics else one.weights[1]
        found.append((values, *torch.autograd.grad(values.square().sum(), (action, weight))))
    separate, together = found
    assert separate[0].shape == (3 if chosen is None else 2, 4)
    torch.testing.assert_close(together[:2], separate[:2])
    torch.testing.assert_close(together[2][2].T, separate[2])


@pytest.mark.parametrize("count", [2, 3])
def test_values_of_choices(count):
    """Networks for discrete actions return the values of all choices, or those of the actions taken."""
    networks, features = [mlp(4, (8,), 5) for _ in range(count)], torch.rand(6, 3)
    critics = ensemble(networks, nn.Linear(3, 4), choices=5)
    action, chosen = tensor([0, 4, 2, 2, 1, 3]), tensor([1, 0])
    values = critics(features, None)
    assert values.shape == (count, 6, 5)
    torch.testing.assert_close(values[1], networks[1](critics.trunk(features)))
    torch.testing.assert_close(critics(features, action), values[:, torch.arange(6), action])
    torch.testing.assert_close(critics(features, action, chosen=chosen), critics(features, action)[chosen])
