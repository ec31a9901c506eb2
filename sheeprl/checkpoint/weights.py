"""Read the networks of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sheeprl.checkpoint.files import AGENT
from sheeprl.utils.errors import ConfigError

POLICY = "policy."  # begin of the names of the policy's tensors

if TYPE_CHECKING:
    from torch import Tensor

    from sheeprl.algos.base import Algorithm


def load_agent(algorithm: Algorithm[Any], checkpoint: Path) -> Any:
    """Return all networks of a checkpoint.

    Raises:
        ConfigError: its file can't be loaded.
    """
    return _loaded(algorithm.build_agent(), read_agent(checkpoint), checkpoint)


def load_weights(algorithm: Algorithm[Any], checkpoint: Path) -> Any:
    """Return the policy network of a checkpoint.

    Raises:
        ConfigError: its file can't be loaded.
    """
    tensors = read_agent(checkpoint)
    own = {name.removeprefix(POLICY): values for name, values in tensors.items() if name.startswith(POLICY)}
    return _loaded(algorithm.build_policy(), own, checkpoint)


def _loaded(module: Any, tensors: dict[str, Tensor], checkpoint: Path) -> Any:
    """Return a module with the tensors of a checkpoint.

    Raises:
        ConfigError: they have other names or shapes.
    """
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise _unreadable(checkpoint, error) from error
    return module.eval()


def read_agent(checkpoint: Path) -> dict[str, Tensor]:
    """Return the parameters and buffers of a checkpoint's agent by name, on the CPU.

    Raises:
        ConfigError: its file can't be loaded.
    """
    import torch

    try:
        state: dict[str, Tensor] = torch.load(checkpoint / AGENT, map_location="cpu", weights_only=True)["agent"]
    except Exception as error:  # torch raises many types for a damaged file
        raise _unreadable(checkpoint, error) from error
    return state


def _unreadable(checkpoint: Path, error: Exception) -> ConfigError:
    """Return the mistake of a file that can't be loaded."""
    first_line = str(error).strip().partition("\n")[0]
    return ConfigError([f"{checkpoint / AGENT}: can't be loaded: {first_line}"])
