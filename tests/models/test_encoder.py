"""Observations as vectors."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import tensor

from sheeprl.models.encoder import to_vector, vector_size


def test_dict_of_mixed_observations():
    """A Dict observation becomes one vector in the order of its space."""
    space = spaces.Dict(
        {
            "position": spaces.Box(-1.0, 1.0, (2, 2)),
            "image": spaces.Box(0, 255, (1, 2), "uint8"),
            "inner": spaces.Dict({"phase": spaces.Discrete(3, start=5)}),
            "buttons": spaces.MultiBinary(2),
        }
    )
    obs = {
        "position": torch.arange(4.0).reshape(1, 2, 2),
        "image": tensor([[[7, 9]]], dtype=torch.uint8),
        "inner": {"phase": tensor([6])},
        "buttons": tensor([[1, 0]], dtype=torch.int8),
    }
    parts = {"buttons": [1, 0], "inner": [0, 1, 0], "image": [7, 9], "position": [0, 1, 2, 3]}
    expected = [float(number) for name in space for number in parts[name]]  # in the order of the space
    assert to_vector(space, obs).tolist() == [expected]
    assert vector_size(space) == len(expected)


def test_batch_axes_are_preserved():
    """Batch axes stay in front of the vector."""
    box, discrete = spaces.Box(-1.0, 1.0, (2, 3)), spaces.Discrete(4)
    assert to_vector(box, torch.zeros(5, 7, 2, 3), batch_dims=2).shape == (5, 7, 6)
    assert to_vector(discrete, torch.zeros(5, 7), batch_dims=2).shape == (5, 7, 4)
    scalar = spaces.Box(-1.0, 1.0, ())
    assert to_vector(scalar, torch.zeros(5, 7), batch_dims=2).shape == (5, 7, 1)


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
