"""The replay buffer: storage of arrival rows, the samplers that read it, and its TensorDict surface."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sheeprl.buffer.replay_buffer import ReplayBuffer

__all__ = ["ReplayBuffer"]


def __getattr__(name: str) -> Any:
    """Import `ReplayBuffer` on first access."""
    # Import it late, because the command line needs the samplers' settings without waiting for PyTorch.
    if name == "ReplayBuffer":
        from sheeprl.buffer.replay_buffer import ReplayBuffer

        return ReplayBuffer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
