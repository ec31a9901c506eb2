"""Conversion between TensorDicts and flat NumPy arrays, which processes exchange without a copy."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from tensordict import TensorDict

from sheeprl.buffer.storage import Rows

T = TypeVar("T")


def flatten(data: TensorDict) -> Rows:
    """Return arrays by flat key (`obs/position`) that share the TensorDict's memory."""
    return {key: _array(value) for key, value in leaves(data).items()}


def leaves(data: TensorDict) -> dict[str, torch.Tensor]:
    """Return the tensors by flat key."""
    pairs = data.items(include_nested=True, leaves_only=True)
    return {key if isinstance(key, str) else "/".join(key): values for key, values in pairs}  # type: ignore[misc]


def unflatten(rows: Rows, batch_dims: int) -> TensorDict:
    """Return a TensorDict that shares the arrays' memory, with the first `batch_dims` axes as its batch size."""
    levels = nested({key: to_tensor(values) for key, values in rows.items()})
    batch_size = next(iter(rows.values())).shape[:batch_dims]
    return TensorDict(levels, batch_size=batch_size)


def nested(flat: Mapping[str, T]) -> dict[str, Any]:
    """Return values by flat key (`obs/position`) as nested dicts."""
    levels: dict[str, Any] = {}
    for key, value in flat.items():
        *groups, leaf = key.split("/")
        level = levels
        for group in groups:
            level = level.setdefault(group, {})
        level[leaf] = value
    return levels


def _array(tensor: torch.Tensor) -> np.ndarray:
    """Return an array that shares the tensor's memory; a dtype unknown to NumPy becomes a field of that name."""
    try:
        return tensor.numpy()
    except TypeError:
        # NumPy does not have the dtype, such as bfloat16: return its bytes as a field with its name.
        name = str(tensor.dtype).removeprefix("torch.")
        unsigned = np.dtype(f"u{tensor.element_size()}")
        same_size = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.element_size()]
        return tensor.view(same_size).numpy().view(np.dtype([(name, unsigned)]))


def to_tensor(values: np.ndarray) -> torch.Tensor:
    """Return a tensor that shares the array's memory; a field of an array from `flatten` gives the dtype by name."""
    if values.dtype.names:
        name = values.dtype.names[0]
        same_size = np.dtype(f"i{values.dtype.itemsize}") if values.dtype.itemsize > 1 else np.dtype(np.uint8)
        return to_tensor(values.view(same_size)).view(getattr(torch, name))
    if values.flags.writeable:
        return torch.from_numpy(values)
    with warnings.catch_warnings():
        # Arrays from the object store are read-only. No caller writes to the tensor.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(values)
