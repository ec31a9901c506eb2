"""Between TensorDicts and flat NumPy arrays, which are what crosses process borders without a copy."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from tensordict import TensorDict

from sheeprl.buffer.storage import Rows


def flatten(data: TensorDict) -> Rows:
    """Arrays by flat key (`obs/position`), sharing the TensorDict's memory."""
    leaves: Rows = {}
    for key, value in data.items(include_nested=True, leaves_only=True):
        leaves["/".join((key,) if isinstance(key, str) else key)] = value.numpy()  # type: ignore[assignment]
    return leaves


def unflatten(rows: Rows, batch_dims: int) -> TensorDict:
    """A TensorDict that shares the arrays' memory, with the first `batch_dims` axes as its batch size."""
    nested: dict[str, object] = {}
    for key, values in rows.items():
        *groups, leaf = key.split("/")
        level = nested
        for group in groups:
            level = level.setdefault(group, {})  # type: ignore[assignment]
        level[leaf] = _tensor(values)
    batch_size = next(iter(rows.values())).shape[:batch_dims]
    return TensorDict(nested, batch_size=batch_size)


def _tensor(values: np.ndarray) -> torch.Tensor:
    if values.flags.writeable:
        return torch.from_numpy(values)
    with warnings.catch_warnings():
        # Arrays out of the object store are read-only; nobody here writes into what they were given.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(values)
