"""Observations as vectors."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch import tensor

from sheeprl.models.encoder import Encoder, to_vector, vector_size


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
    """Discrete observations are one-hot vectors for any batch shape."""

    def tensor(value):
        """Return a value with the batch shape."""
        return torch.as_tensor(np.broadcast_to(value, batch + np.shape(value)).copy())

    batched = {key: tensor(value) for key, value in obs.items()} if isinstance(obs, dict) else tensor(obs)
    found = to_vector(space, batched, len(batch))
    assert found.dtype == torch.float32 and found.shape == (*batch, vector_size(space))
    assert torch.equal(found, torch.tensor(vector, dtype=torch.float32).expand_as(found))


# ------------------------------------------------------------------------------------------- Encoder

MIXED = spaces.Dict(
    {
        "action_mask": spaces.MultiBinary(3),
        "camera": spaces.Box(0, 255, (5, 6, 3), np.uint8),
        "inner": spaces.Dict({"goal": spaces.Discrete(3), "screen": spaces.Box(0, 255, (2, 7, 7), np.uint8)}),
        "state": spaces.Box(-1.0, 1.0, (2,)),
    }
)


def sampled(space, *batch):
    """Return observations `[*batch, *]` as nested tensors."""
    if isinstance(space, spaces.Dict):
        return {name: sampled(part, *batch) for name, part in space.items()}
    space.seed(0)
    values = np.stack([space.sample() for _ in range(int(np.prod(batch)))])
    return torch.from_numpy(values).reshape(*batch, *(space.shape or ()))


def test_an_encoder_without_pictures_is_the_vector():
    """It has no parameters and leaves out the action mask."""
    for space in (
        spaces.Box(-1.0, 1.0, (3,)),
        spaces.MultiDiscrete([2, 3]),
        spaces.Dict({"b": spaces.Discrete(2), "action_mask": spaces.MultiBinary(4), "a": spaces.Box(0.0, 1.0, ())}),
    ):
        encoder, obs = Encoder(space), sampled(space, 4, 2)
        assert not list(encoder.parameters()) and encoder.size == vector_size(space)
        assert torch.equal(encoder(obs, batch_dims=2), to_vector(space, obs, 2))


def test_pictures_and_vectors_are_joined():
    """Each picture has a separate CNN; the features of the pictures precede the vectors."""
    encoder, obs = Encoder(MIXED, features=8), sampled(MIXED, 3, 2)
    output = encoder(obs, batch_dims=2)
    assert output.shape == (3, 2, encoder.size) and encoder.size == 8 + 8 + 3 + 2
    camera, screen = encoder.pictures
    assert torch.equal(output[..., :8], camera(obs["camera"], 2))
    assert torch.equal(output[..., 8:16], screen(obs["inner"]["screen"], 2))
    assert torch.equal(output[..., 16:19], torch.nn.functional.one_hot(obs["inner"]["goal"], 3).float())
    assert torch.equal(output[..., 19:], obs["state"])
    row = {name: part[1] for name, part in obs.items() if name != "inner"}
    row["inner"] = {name: part[1] for name, part in obs["inner"].items()}
    assert torch.allclose(encoder(row), output[1], atol=1e-6)


def test_keys_select_the_inputs():
    """Unselected parts need not be in the observation."""
    obs = sampled(MIXED, 4)
    encoder = Encoder(MIXED, ("inner/goal",), ("camera",), features=8)
    assert encoder.size == 8 + 3
    assert encoder({"camera": obs["camera"], "inner": {"goal": obs["inner"]["goal"]}}).shape == (4, 11)
    assert Encoder(MIXED, (), None, features=8).size == 16 and Encoder(MIXED, None, (), features=8).size == 5
    assert torch.equal(Encoder(MIXED, ("state",), ())({"state": obs["state"]}), obs["state"])
    with pytest.raises(ValueError, match="use some of camera, inner/goal, inner/screen, state"):
        Encoder(MIXED, (), ())


def test_vectors_may_pass_layers():
    """Each layer has an activation, so outputs of ReLU aren't negative."""
    encoder = Encoder(MIXED, None, (), mlp=(7, 4))
    assert encoder.size == 4 and encoder(sampled(MIXED, 6)).min() >= 0
    assert [tuple(parameter.shape) for parameter in encoder.parameters()] == [(7, 5), (7,), (4, 7), (4,)]


def test_an_encoder_reads_tensordicts():
    """Batches of the learner are TensorDicts."""
    obs = sampled(MIXED, 4)
    encoder = Encoder(MIXED, features=8)
    assert torch.equal(encoder(TensorDict(obs, [4])), encoder(obs))


def test_the_only_part_is_a_picture():
    """A Box without a Dict has the key `obs`."""
    space = spaces.Box(0, 255, (84, 84, 3), np.uint8)
    encoder = Encoder(space, cnn_keys=("obs",))
    assert encoder.size == 512 and encoder(sampled(space, 2)).shape == (2, 512)
