"""Blocks of memory for samples: layout, reuse and packing."""

import pickle

import numpy as np
import torch

from sheeprl.buffer.block import Block, Pool, pack

KINDS = {
    "pixels": ((2, 3), np.zeros((7, 5, 5), np.uint8)),
    "reward": ((2, 3), np.zeros(7, np.float32)),
    "flag": ((2, 3), np.zeros(7, np.bool_)),
}


def filled(pool):
    """Return the arrays of a filled block."""
    rows = Block(pool, KINDS, {"index": np.arange(6).reshape(2, 3)}).rows
    for number, name in enumerate(KINDS):
        rows[name][...] = number + 1
    return rows


def test_block_is_one_allocation():
    """Test shapes and content of the arrays, and that none lies outside the block."""
    rows = filled(Pool())
    assert {name: values.shape for name, values in rows.items()} == {
        "pixels": (2, 3, 5, 5),
        "reward": (2, 3),
        "flag": (2, 3),
        "index": (2, 3),
    }
    assert len(pack(rows).others) == 0
    assert (rows["pixels"] == 1).all() and (rows["reward"] == 2).all() and rows["flag"].all()
    assert rows["index"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_memory_is_reused_only_without_views():
    """Test that the pool does not reuse memory while any view of it exists."""
    pool = Pool()
    first = filled(pool)["reward"]
    second = filled(pool)["reward"]
    assert not np.shares_memory(first, second)
    view = second[0]  # a view of a view
    del second
    third = filled(pool)["reward"]
    assert not np.shares_memory(view, third) and not np.shares_memory(first, third)
    assert (view == 2).all()
    del view, third, first
    addresses = [filled(pool)["reward"].__array_interface__["data"][0] for _ in range(3)]
    assert len(set(addresses)) == 1


def test_reuse_does_not_depend_on_reference_counts(monkeypatch):
    """Test that tensors and memoryviews protect the memory too."""
    monkeypatch.setattr("sys.getrefcount", lambda _: 1)  # Python 3.14 does not count borrowed references
    pool = Pool()
    held = [filled(pool)["reward"] for _ in range(4)]
    for number, reward in enumerate(held):
        reward[...] = number
    tensor = torch.from_numpy(held.pop())
    export = memoryview(held.pop())
    filled(pool), filled(pool)
    assert (tensor == 3).all() and (np.asarray(export) == 2).all()
    assert [float(reward.max()) for reward in held] == [0, 1]


def test_packed_block_is_one_buffer_and_unpacks_to_the_same_arrays():
    """Test the round trip through pickle with out-of-band buffers."""
    rows = filled(Pool())
    rows["importance"] = np.linspace(0, 1, 6, dtype=np.float32)
    buffers = []
    stream = pickle.dumps(pack(rows), protocol=5, buffer_callback=buffers.append)
    assert len(buffers) == 2  # the block, and the array outside it
    unpacked = pickle.loads(stream, buffers=buffers).unpack()
    assert unpacked.keys() == rows.keys()
    for name, values in rows.items():
        assert unpacked[name].dtype == values.dtype
        assert unpacked[name].tolist() == values.tolist()


def test_pack_excludes_unused_memory_of_the_pool():
    """Test a small block in the memory of a larger one."""
    pool = Pool()
    large = Block(pool, {"x": ((1000,), np.zeros(7))}).rows
    del large
    small = Block(pool, {"x": ((600,), np.zeros(7))}).rows  # in the same memory
    assert pack(small).data.nbytes == 4800
