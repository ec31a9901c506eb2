"""Arguments of all Dreamers and their defaults."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from sheeprl.algos.args import EncoderArgs, OffPolicy, OffPolicyArgs
from sheeprl.utils.settings import Count, Fractional, Natural, NonNegative

if TYPE_CHECKING:
    from sheeprl.envs.transforms import Spaces


class DreamerArgs(EncoderArgs, OffPolicyArgs):
    """Arguments of every Dreamer."""

    actions: ClassVar[tuple[str, ...]] = ("discrete", "multi-discrete", "continuous")
    bounded_actions: ClassVar[bool] = True

    learning_starts: Natural = Field(1024, description="policy steps with random actions before training starts")
    replay_ratio: NonNegative = Field(0.5, description="gradient steps per policy step, exact")
    batch_size: Count = Field(16, description="sequences per batch of the whole trainer group")
    sequence_length: Count = Field(64, description="rows of a sequence, besides its context row")
    cross_episodes: bool = Field(
        True, description="sequences may continue with the next episode, where the state is reset"
    )
    horizon: Count = Field(15, description="steps of imagination")
    imag_last: Natural = Field(0, description="last rows of each sequence from which imagination starts; 0 for all")
    lambda_: Fractional = Field(0.95, description="λ of the returns")

    @field_validator("imag_last")
    @classmethod
    def _check_starts(cls, rows: int, info: ValidationInfo) -> int:
        """Reject more rows than a sequence has."""
        length = info.data.get("sequence_length")
        if length is not None and rows > length:
            raise ValueError(f"must be at most algo.sequence_length={length}")
        return rows

    @property
    def starts(self) -> int:
        """Return the number of rows of each sequence from which imagination starts."""
        return self.imag_last or self.sequence_length

    @property
    @abstractmethod
    def stored_bytes(self) -> int:
        """Bytes of the stored state: four per number, one per categorical."""

    def space_mistakes(self, spaces: Spaces) -> Iterator[str]:
        """Yield also a line for each picture that the decoder can't reconstruct: its pictures are in [0, 1]."""
        import numpy as np  # would delay the help

        from sheeprl.envs.transforms import input_keys, input_spaces

        yield from super().space_mistakes(spaces)
        parts = input_spaces(spaces.observation)
        for key in input_keys(spaces.observation, self.mlp_keys, self.cnn_keys)[1]:
            box: Any = parts[key]
            if box.dtype != np.uint8 and (np.min(box.low) < 0 or np.max(box.high) > 1):
                yield (
                    f"env.id: the picture {key} is {box.dtype} from {np.min(box.low):g} to {np.max(box.high):g}; "
                    "return uint8, or floats from 0 to 1"
                )

    def space_warnings(self, spaces: Spaces) -> Iterator[str]:
        """Yield a line if the observation has an action mask, which no imagined state has."""
        from sheeprl.envs.transforms import ACTION_MASK  # imports NumPy

        yield from super().space_warnings(spaces)
        if ACTION_MASK in getattr(spaces.observation, "spaces", ()):
            yield (
                f"env.id: {ACTION_MASK} restricts played actions, but not imagined ones, because the world model "
                "doesn't predict masks; use an algorithm without a world model if forbidden choices mislead the actor"
            )

    def data(self) -> OffPolicy:
        """Return settings to read sequences, each with the row before, into which states are written back."""
        from sheeprl.buffer.sequences import Sequences  # imports NumPy, which would delay the help

        sampler = Sequences(self.sequence_length, context=True, crosses=self.cross_episodes)
        return replace(super().data(), sampler=sampler, writes_back=True)
