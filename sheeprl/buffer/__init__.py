"""The replay buffer: storage of arrival rows, the samplers that read it, and its TensorDict surface."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sheeprl.buffer.replay_buffer import ReplayBuffer

__all__ = ["ReplayBuffer"]


def __getattr__(name: str) -> Any:
    # Late, because the samplers' settings are read by programs that must not wait for torch.
    if name == "ReplayBuffer":
        from sheeprl.buffer.replay_buffer import ReplayBuffer

        return ReplayBuffer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
