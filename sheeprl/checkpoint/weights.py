"""Read the networks of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sheeprl.checkpoint.files import AGENT, WEIGHTS
from sheeprl.checkpoint.run_dir import checkpoints
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
    from sheeprl.models.weights import load_tensors

    try:
        load_tensors(module, tensors)
    except ValueError as error:
        advice = "undo changes of the run's config.yaml"
        raise ConfigError([f"{checkpoint}: can't be loaded: {error}; {advice}"]) from error
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
    except FileNotFoundError as error:
        raise ConfigError([f"{path}: is missing; {_another(checkpoint)}"]) from error
    except ImportError as error:
        raise ConfigError([f"{path}: {error}; use {install_command('hub')}"]) from error
    except OSError as error:
        raise ConfigError([f"{path}: can't be read: {error.strerror or error}"]) from error
    except Exception as error:  # torch raises many types for a damaged file, with advice that isn't safe
        raise ConfigError([f"{path}: is damaged; {_another(checkpoint)}"]) from error


def _another(checkpoint: Path) -> str:
    """Return the advice to use another checkpoint of the run."""
    others = [path for path in checkpoints(checkpoint.parent.parent) if path != checkpoint]
    return f"use another checkpoint, such as {others[-1]}" if others else "the run has no other checkpoint"
