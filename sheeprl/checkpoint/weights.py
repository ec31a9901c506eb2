"""Load the policy network of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sheeprl.utils.errors import ConfigError

if TYPE_CHECKING:
    from sheeprl.algos.base import Algorithm


def load_weights(algorithm: Algorithm[Any], checkpoint: Path) -> Any:
    """Return the policy network of a checkpoint.

    Raises:
        ConfigError: its file can't be loaded.
    """
    import torch

    agent = algorithm.build_agent()
    try:
        state = torch.load(checkpoint / "agent.pt", map_location="cpu", weights_only=True)
        agent.load_state_dict(state["agent"])
    except Exception as error:  # torch raises many types for a damaged file
        first_line = str(error).strip().partition("\n")[0]
        raise ConfigError([f"{checkpoint / 'agent.pt'}: can't be loaded: {first_line}"]) from error
    return agent.get_submodule("policy").eval()
