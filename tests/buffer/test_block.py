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
    rows = Block(pool, KINDS, {"index": np.arange(6).reshape(2, 3)}).rows
    for number, name in enumerate(KINDS):
        rows[name][...] = number + 1
    return rows


def test_a_block_lies_in_one_piece_of_memory():
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


def test_memory_is_used_again_only_when_nobody_looks_at_it():
    pool = Pool()
    first = filled(pool)["reward"]
    second = filled(pool)["reward"]
    assert not np.shares_memory(first, second)
    kept = second[0]  # a view of a view
    del second
    third = filled(pool)["reward"]
    assert not np.shares_memory(kept, third) and not np.shares_memory(first, third)
    assert (kept == 2).all()
    del kept, third, first
    again = [filled(pool)["reward"].__array_interface__["data"][0] for _ in range(3)]
    assert len(set(again)) == 1


def test_memory_in_use_is_safe_whatever_the_interpreter_counts(monkeypatch):
    monkeypatch.setattr("sys.getrefcount", lambda _: 1)  # borrowed references don't count on Python 3.14
    pool = Pool()
    held = [filled(pool)["reward"] for _ in range(4)]
    for number, reward in enumerate(held):
        reward[...] = number
    tensor = torch.from_numpy(held.pop())
    export = memoryview(held.pop())
    filled(pool), filled(pool)
    assert (tensor == 3).all() and (np.asarray(export) == 2).all()
    assert [float(reward.max()) for reward in held] == [0, 1]


def test_a_packed_block_is_one_buffer_and_comes_back_as_it_was():
    rows = filled(Pool())
    rows["importance"] = np.linspace(0, 1, 6, dtype=np.float32)
    buffers = []
    stream = pickle.dumps(pack(rows), protocol=5, buffer_callback=buffers.append)
    assert len(buffers) == 2  # the block, and what isn't in it
    back = pickle.loads(stream, buffers=buffers).unpack()
    assert back.keys() == rows.keys()
    for name, values in rows.items():
        assert back[name].dtype == values.dtype
        assert back[name].tolist() == values.tolist()


def test_packing_takes_no_more_than_the_block():
    pool = Pool()
    large = Block(pool, {"x": ((1000,), np.zeros(7))}).rows
    del large
    small = Block(pool, {"x": ((600,), np.zeros(7))}).rows  # in the same memory
    assert pack(small).data.nbytes == 4800
