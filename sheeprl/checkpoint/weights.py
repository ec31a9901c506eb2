"""Load the policy network of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sheeprl.checkpoint.files import AGENT, WEIGHTS
from sheeprl.utils.errors import ConfigError
from sheeprl.utils.installation import install_command

if TYPE_CHECKING:
    from sheeprl.algos.base import Algorithm


def load_weights(algorithm: Algorithm[Any], checkpoint: Path) -> Any:
    """Return the policy network of a checkpoint.

    Raises:
        ConfigError: its file can't be loaded.
    """
    agent, tensors = algorithm.build_agent(), read_agent(checkpoint)
    try:
        agent.load_state_dict(tensors)
    except Exception as error:  # torch raises many types for tensors of another agent
        raise ConfigError([f"{checkpoint}: can't be loaded: {_first_line(error)}"]) from error
    return agent.get_submodule("policy").eval()


def read_agent(checkpoint: Path) -> dict[str, Any]:
    """Return the tensors of a checkpoint's agent by name, from agent.pt or from safetensors.

    Raises:
        ConfigError: the file can't be loaded, or a package is missing.
    """
    path = checkpoint / WEIGHTS
    try:
        if path.is_file():
            from safetensors.torch import load_file

            return dict(load_file(path))
        import torch

        path = checkpoint / AGENT
        return dict(torch.load(path, map_location="cpu", weights_only=True)["agent"])
    except ImportError as error:
        raise ConfigError([f"{path}: {error}; use {install_command('hub')}"]) from error
    except Exception as error:  # torch raises many types for a damaged file
        raise ConfigError([f"{path}: can't be loaded: {_first_line(error)}"]) from error


def _first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().partition("\n")[0]
