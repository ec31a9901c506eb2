"""A module's state as plain arrays, for the way from the learner to the players."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from sheeprl.buffer.storage import Rows
from sheeprl.utils.tensors import moved


def to_arrays(module: nn.Module, copy: bool = True) -> Rows:
    """All parameters and buffers by name.

    Args:
        module: whose.
        copy: whether the arrays are to stay as they are when the module changes; else they may share its memory.
    """
    state = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    here = moved(state, torch.device("cpu"))
    is_shared = here is state
    return {name: tensor.numpy().copy() if copy and is_shared else tensor.numpy() for name, tensor in here.items()}


def from_arrays(module: nn.Module, arrays: Rows) -> None:
    """Copy arrays by name, which may be read-only, into the parameters and buffers of a module on CPU.

    Raises:
        KeyError: one is missing.
    """
    for name, tensor in module.state_dict().items():
        np.copyto(tensor.numpy(), arrays[name])  # torch's copy wants writable arrays: it would take a second copy
