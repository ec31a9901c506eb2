"""Safe serialization of plain data: loading reads only numbers, text, containers and tensors, and runs no code."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch

ARRAY = "numpy"  # marks an array, stored as a tensor of its bytes


def dumps(tree: Any) -> bytes:
    """Serialize nested tuples, lists and dicts of numbers, text, bytes, NumPy arrays and tensors."""
    file = io.BytesIO()
    torch.save(_encode(tree), file)
    return file.getvalue()


def loads(data: bytes) -> Any:
    """Return the data that `dumps` serialized.

    Raises:
        ValueError: the bytes are damaged.
    """
    try:
        return _decode(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises many types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the data is damaged: {reason}") from error


def _encode(value: Any) -> Any:
    """Replace arrays, bytes and complex numbers by tuples that torch can load safely."""
    if isinstance(value, dict):
        return {key: _encode(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_encode(part) for part in value)
    if isinstance(value, (bytes, complex)):
        return (ARRAY, type(value).__name__, _encode(np.array(value) if isinstance(value, complex) else _bytes(value)))
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        return (ARRAY, array.dtype.str, tuple(array.shape), torch.from_numpy(_bytes(array.tobytes()).copy()))
    return value


def _decode(value: Any) -> Any:
    """Invert `_encode`."""
    if isinstance(value, dict):
        return {key: _decode(part) for key, part in value.items()}
    if isinstance(value, tuple) and value[:1] == (ARRAY,):
        if len(value) == 3:
            array = _decode(value[2])
            return array.tobytes() if value[1] == "bytes" else complex(array)
        _, dtype, shape, data = value
        return np.frombuffer(data.numpy().tobytes(), np.dtype(dtype)).reshape(shape).copy()
    if isinstance(value, (list, tuple)):
        return type(value)(_decode(part) for part in value)
    return value


def _bytes(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return bytes as an array."""
    return np.frombuffer(data, np.uint8)
