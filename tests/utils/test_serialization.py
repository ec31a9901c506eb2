"""Test that plain data keeps its types and values, and that damaged data is an error."""

import io
import random

import numpy as np
import pytest
import torch

from sheeprl.utils.serialization import dumps, loads


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        2**80,
        -0.1,
        float("inf"),
        "ü",
        b"\x00\xff",
        1 + 2j,
        (),
        [],
        {},
        ((1, 2), [3, None, (True,)], {"a": {1: b"x"}, None: 2.5, (0, "b"): []}),
        random.Random(3).getstate(),
    ],
)
def test_plain_values(value):
    """Values have the same types and are equal."""
    found = loads(dumps(value))
    assert found == value and repr(found) == repr(value)


@pytest.mark.parametrize(
    "value", [np.zeros((2, 0), np.float32), np.arange(6, dtype=">u2").reshape(2, 3), np.float64(3)]
)
def test_arrays(value):
    """Arrays have the same dtype, shape and values, and can be written."""
    found = loads(dumps([value]))[0]
    assert found.dtype == value.dtype and found.shape == value.shape and (found == value).all()
    found[...] = 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(), (3, 2), (0, 4)])
def test_tensors(dtype, shape):
    """Tensors have the same dtype, shape and values, also if they are views."""
    value = (
        torch.arange(24).reshape(4, 6).to(dtype).t()[:3, :2].clone() if shape == (3, 2) else torch.ones(shape).to(dtype)
    )
    found = loads(dumps({"tensor": value}))["tensor"]
    assert found.dtype == value.dtype and torch.equal(found, value)


def test_structured_arrays():
    """Arrays with named fields keep them; those with gaps between the fields are refused."""
    array = np.zeros(3, [("x", "<f4"), ("y", "<i8", (2,)), ("z", [("q", "u1")])])
    array["x"], array["y"][1], array["z"]["q"] = [1, 2, 3], 7, 5
    found = loads(dumps(array))
    assert found.dtype == array.dtype and (found == array).all()
    with pytest.raises(TypeError, match="can't be serialized"):
        dumps(np.zeros(2, np.dtype([("x", "u1"), ("y", "<f8")], align=True)))


def test_nan():
    """A NaN stays one."""
    assert np.isnan(loads(dumps(float("nan"))))


@pytest.mark.parametrize("value", [object(), np.array([None]), {1, 2}])
def test_other_values_are_errors(value):
    """Only plain data is serialized."""
    with pytest.raises(TypeError, match="can't be serialized"):
        dumps(value)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data + b"x", lambda data: data[:30], lambda data: b""]
)
def test_damaged_data_is_an_error(damage):
    """Data that is cut or too long is refused."""
    with pytest.raises(ValueError, match="damaged"):
        loads(damage(dumps({"a": np.arange(5)})))


def test_data_of_older_versions():
    """Data that `torch.save` wrote, with arrays as tensors of bytes, is read."""
    file = io.BytesIO()
    data = torch.from_numpy(np.arange(3, dtype=np.int16).view(np.uint8))
    size = torch.tensor([1], dtype=torch.uint8)
    torch.save({"a": ("numpy", "<i2", (3,), data), "b": [("numpy", "bytes", ("numpy", "|u1", (1,), size))]}, file)
    found = loads(file.getvalue())
    assert found["a"].tolist() == [0, 1, 2] and found["b"] == [b"\x01"]
