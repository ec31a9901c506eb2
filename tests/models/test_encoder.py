"""Observations as vectors."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from sheeprl.models.encoder import to_vector, vector_size


@pytest.mark.parametrize(
    ("space", "obs", "vector"),
    [
        (spaces.Discrete(3, start=1), 2, [0, 1, 0]),
        (spaces.MultiDiscrete([2, 3]), [1, 0], [0, 1, 1, 0, 0]),
        (spaces.MultiDiscrete([2, 3], start=[5, -1]), [5, 1], [1, 0, 0, 0, 1]),
        (spaces.MultiDiscrete([[2, 2], [2, 2]]), [[0, 1], [1, 0]], [1, 0, 0, 1, 0, 1, 1, 0]),
        (spaces.MultiBinary([2, 2]), [[0, 1], [1, 1]], [0, 1, 1, 1]),
        (
            spaces.Dict({"a": spaces.MultiDiscrete([2]), "b": spaces.Box(0.0, 1.0, ())}),
            {"a": [1], "b": 0.5},
            [0, 1, 0.5],
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("batch", [(), (2,), (3, 2)])
def test_choices_are_one_hot_under_any_batch(space, obs, vector, batch):
    def tensor(value):
        return torch.as_tensor(np.broadcast_to(value, batch + np.shape(value)).copy())

    batched = {key: tensor(value) for key, value in obs.items()} if isinstance(obs, dict) else tensor(obs)
    found = to_vector(space, batched, len(batch))
    assert found.dtype == torch.float32 and found.shape == (*batch, vector_size(space))
    assert torch.equal(found, torch.tensor(vector, dtype=torch.float32).expand_as(found))
