"""A module's state as plain arrays, for the way from the learner to the players."""

from __future__ import annotations

import torch
from torch import nn

from sheeprl.buffer.storage import Rows


def to_arrays(module: nn.Module) -> Rows:
    """Copies of all parameters and buffers by name."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in module.state_dict().items()}


def from_arrays(module: nn.Module, arrays: Rows) -> None:
    """Copy arrays by name into a module's parameters and buffers.

    Raises:
        KeyError: one is missing.
    """
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            # from_numpy would warn of read-only arrays, which is what comes out of the object store.
            tensor.copy_(torch.asarray(arrays[name].copy() if not arrays[name].flags.writeable else arrays[name]))
