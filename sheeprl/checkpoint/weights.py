"""Read the networks of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sheeprl.checkpoint.files import AGENT, WEIGHTS
from sheeprl.utils.errors import ConfigError
from sheeprl.utils.installation import install_command

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
    """Return the parameters and buffers of a checkpoint's agent by name, on the CPU, from agent.pt or safetensors.

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
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ConfigError:
    """Return the mistake of a file or checkpoint that can't be loaded."""
    first_line = str(error).strip().partition("\n")[0]
    if "zip archive" in first_line:  # torch's text is long and names its own source files
        first_line = "it is incomplete or damaged; use an older checkpoint of the run"
    return ConfigError([f"{path}: can't be loaded: {first_line}"])
