"""Tables of metrics, and means over gradient steps."""

import pytest
import torch

from sheeprl.learning.metrics import Table, means_of


def test_mean_is_over_the_steps_with_the_metric():
    """A mean counts only the steps that have the metric."""
    two_steps = Table(["loss", "alpha"], torch.tensor([[1.0, 0.5], [2.0, 0.25]]))
    one_step = Table.of(["loss"], [torch.tensor(6.0)])
    assert means_of([two_steps, one_step, Table.of([], [])]) == pytest.approx({"loss": 3.0, "alpha": 0.375})
    assert means_of([]) == {}


def test_last_returns_the_metrics_of_the_last_step():
    """`last` returns the last row by name."""
    assert Table(["loss"], torch.tensor([[1.0], [2.0]])).last() == {"loss": torch.tensor(2.0)}
