"""Modules and dtypes that an agent can't contain, because training would be wrong or the device refuses them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from sheeprl.utils.errors import AlgorithmError


def check_modules(agent: nn.Module) -> None:
    """Check that an agent contains only modules whose gradient steps are right.

    Raises:
        ValueError: a module keeps weights or random numbers outside of the gradient step. The message names the module
            and what to use.
    """
    for name, module in agent.named_modules():
        if reason := _reason(module):
            raise ValueError(f"the agent's {name or 'root module'!r} is a torch.nn.{type(module).__name__}: {reason}")


def check_dtypes(agent: nn.Module, device: torch.device) -> None:
    """Check that a device supports the dtypes of an agent's tensors; Apple's `mps` has no float64.

    Raises:
        AlgorithmError: it doesn't.
    """
    names = [name for name, value in agent.state_dict().items() if value.dtype == torch.float64]
    if device.type == "mps" and names:
        others = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
        raise AlgorithmError(
            f"trainer.accelerator=mps has no float64, but the agent's {names[0]}{others} need it; use "
            "trainer.accelerator=cpu, or switch off running statistics such as algo.normalize_obs"
        )


def _reason(module: nn.Module) -> str | None:
    """Return what is wrong with a module and what to use; None if nothing is."""
    if isinstance(module, nn.RNNBase):
        return (
            "on a GPU it copies its weights out of the memory that training changes; use the cells of "
            "sheeprl.models.recurrent"
        )
    if isinstance(module, _DropoutNd) and module.p > 0:
        return (
            "it draws from a global generator, so a run could not be repeated and ranks would differ; use dropout of "
            "sheeprl.models.noise with Phase.noise"
        )
    if isinstance(module, _NormBase) and (
        module.track_running_stats or isinstance(module, nn.modules.batchnorm._BatchNorm)
    ):
        return (
            "it changes its statistics within the loss, and each rank has its own; use LayerNorm, or return running "
            "statistics in Loss.buffers"
        )
    return None
