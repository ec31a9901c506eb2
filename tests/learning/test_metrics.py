"""Means of metrics that not every step has."""

import pytest
import torch

from sheeprl.learning.metrics import Table, means_of


def test_means_are_over_the_steps_that_have_a_metric():
    together = Table(["loss", "alpha"], torch.tensor([[1.0, 0.5], [2.0, 0.25]]))
    alone = Table.of({"loss": torch.tensor(6.0)})
    assert means_of([together, alone, Table.of({})]) == pytest.approx({"loss": 3.0, "alpha": 0.375})
    assert means_of([]) == {}


def test_the_last_step_can_be_looked_at():
    assert Table(["loss"], torch.tensor([[1.0], [2.0]])).last() == {"loss": torch.tensor(2.0)}
