"""Trees of tensors."""

import torch

from sheeprl.utils.tensors import flattened, moved, unflattened

TREE = {"a": torch.zeros(2), "b": [torch.ones(3), {"c": torch.tensor(4)}], "d": {}}


def test_a_tree_is_what_it_was_when_its_tensors_are_put_back():
    tensors = flattened(TREE)
    assert [tensor.numel() for tensor in tensors] == [2, 3, 1]
    assert unflattened(TREE, iter(tensors)) == TREE


def test_what_is_there_already_is_not_copied():
    assert moved(TREE, torch.device("cpu")) is TREE


def test_what_is_moved_keeps_its_shapes_and_dtypes():
    there = moved(TREE, torch.device("meta"))
    assert [values.device.type for values in flattened(there)] == ["meta"] * 3
    for one, other in zip(flattened(TREE), flattened(there), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
