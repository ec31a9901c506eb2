"""Convert a module's parameters to arrays and back, to send them from the learner to the players; load saved ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from sheeprl.buffer.storage import Rows
from sheeprl.utils.tensors import moved


def to_arrays(module: nn.Module, copy: bool = True) -> Rows:
    """Return all parameters and buffers by name, as arrays in CPU memory.

    Args:
        module: module on any device.
        copy: never share memory with the module, so that later changes of it don't reach the arrays.
    """
    state = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    on_cpu = moved(state, torch.device("cpu"))
    is_shared = on_cpu is state
    return {name: tensor.numpy().copy() if copy and is_shared else tensor.numpy() for name, tensor in on_cpu.items()}


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load saved parameters and buffers by name.

    Raises:
        ValueError: they have other names or shapes. The message names the first one, and the module is unchanged.
    """
    own = module.state_dict()
    for name in [*own, *tensors]:
        sizes = [None if name not in each else list(each[name].shape) for each in (tensors, own)]
        if sizes[0] != sizes[1]:
            saved, needed = ("missing" if size is None else str(size) for size in sizes)
            raise ValueError(f"{name} is {saved} in the checkpoint, but {needed} with the settings of the run")
    module.load_state_dict(tensors)


def from_arrays(module: nn.Module, arrays: Rows) -> None:
    """Copy arrays, which may be read-only, into the parameters and buffers of a module on CPU.

    Raises:
        KeyError: the array of a parameter or buffer is missing.
    """
    for name, tensor in module.state_dict().items():
        np.copyto(tensor.numpy(), arrays[name])  # torch.from_numpy needs writable arrays: that would cost a second copy
