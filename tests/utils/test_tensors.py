"""Test trees of tensors."""

import torch

from sheeprl.utils.tensors import flattened, moved, unflattened

TREE = {"a": torch.zeros(2), "b": [torch.ones(3), {"c": torch.tensor(4)}], "d": {}}


def test_unflattened_inverts_flattened():
    """`unflattened` inverts `flattened`."""
    tensors = flattened(TREE)
    assert [tensor.numel() for tensor in tensors] == [2, 3, 1]
    assert unflattened(TREE, iter(tensors)) == TREE


def test_a_tree_on_the_device_is_not_copied():
    """A tree on the device is returned unchanged."""
    assert moved(TREE, torch.device("cpu")) is TREE


def test_a_transfer_preserves_shapes_and_dtypes():
    """A transfer preserves shapes and dtypes."""
    there = moved(TREE, torch.device("meta"))
    assert [values.device.type for values in flattened(there)] == ["meta"] * 3
    for one, other in zip(flattened(TREE), flattened(there), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
