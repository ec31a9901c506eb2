"""DreamerV3's arguments and their defaults."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from sheeprl.algos.dreamer.args import DreamerArgs
from sheeprl.utils.settings import (
    LEARNING_RATES,
    STRUCTURAL,
    Count,
    Fractional,
    Natural,
    NonNegative,
    Part,
    Positive,
    needs,
)

if TYPE_CHECKING:
    from sheeprl.envs.transforms import Spaces


@dataclass(frozen=True)
class Widths:
    """Widths of the networks.

    Args:
        deter: length of the deterministic state.
        hidden: width of the dynamics' hidden layers.
        classes: classes of each categorical of the stochastic state.
        depth: channels of the CNNs are multiples of it.
        units: width of the hidden layers of encoder, decoder and heads.
    """

    deter: int
    hidden: int
    classes: int
    depth: int
    units: int


Size = Literal["1M", "12M", "25M", "50M", "100M", "200M", "400M"]
SIZES: dict[str, Widths] = {
    "1M": Widths(512, 64, 4, 4, 64),
    "12M": Widths(2048, 256, 16, 16, 256),
    "25M": Widths(3072, 384, 24, 24, 384),
    "50M": Widths(4096, 512, 32, 32, 512),
    "100M": Widths(6144, 768, 48, 48, 768),
    "200M": Widths(8192, 1024, 64, 64, 1024),
    "400M": Widths(12288, 1536, 96, 96, 1536),
}
"""Widths by the name of a size, which is about the number of parameters with pictures."""


class DreamerV3Args(DreamerArgs):
    """Arguments of DreamerV3, Hafner et al. 2023 (2301.04104), as in the authors' code of 2026."""

    algorithm: ClassVar[str] = "sheeprl.algos.dreamer_v3.dreamer_v3:DreamerV3"
    summary: ClassVar[str] = "DreamerV3: discrete world model, actor and critic learn in imagination"
    help_first: ClassVar[tuple[str, ...]] = (
        *("size", "replay_ratio", "batch_size", "sequence_length", "imag_last", "learning_rate", "learning_starts"),
    )

    size: Size = Field("1M", description="widths of all networks by parameters", json_schema_extra=STRUCTURAL)
    deter: Count | None = Field(
        None, description="length of the deterministic state; default by algo.size", json_schema_extra=STRUCTURAL
    )
    hidden: Count | None = Field(
        None, description="width of the dynamics' hidden layers; default by algo.size", json_schema_extra=STRUCTURAL
    )
    classes: Count | None = Field(
        None, description="classes of each categorical, 2 to 256; default by algo.size", json_schema_extra=STRUCTURAL
    )
    depth: Count | None = Field(
        None,
        description="channels of the CNNs are multiples of it; default by algo.size",
        json_schema_extra=STRUCTURAL | needs("pictures"),
    )
    units: Count | None = Field(
        None, description="width of the other hidden layers; default by algo.size", json_schema_extra=STRUCTURAL
    )
    categoricals: Count = Field(32, description="categoricals of the stochastic state", json_schema_extra=STRUCTURAL)
    blocks: Count = Field(8, description="blocks of the recurrent cell", json_schema_extra=STRUCTURAL)

    learning_rate: Positive = Field(4e-5, description="learning rate of LaProp", json_schema_extra=LEARNING_RATES)
    warmup: Natural = Field(1000, description="gradient steps over which the learning rate rises linearly")
    adaptive_clip: Positive = Field(
        0.3, description="maximum norm of a parameter's gradient, as a fraction of the parameter's norm"
    )
    uniform_mix: Fractional = Field(0.01, description="uniform part of the categoricals of states and actions", lt=1)
    free_nats: NonNegative = Field(1.0, description="KL divergence below which it isn't trained")
    prior_scale: NonNegative = Field(1.0, description="coefficient of the KL divergence that trains the prior")
    posterior_scale: NonNegative = Field(0.1, description="coefficient of the KL divergence that trains the posterior")
    effective_horizon: Annotated[float, Field(gt=1)] = Field(
        333.0, description="discount factor 1 - 1 / effective_horizon"
    )
    entropy_coef: NonNegative = Field(3e-4, description="coefficient of the policy's entropy")
    target_tau: Fractional = Field(0.02, description="step size of the slow critic towards the critic")
    slow_scale: NonNegative = Field(1.0, description="coefficient of the critic's distance to the slow critic")
    replay_value_scale: NonNegative = Field(0.3, description="coefficient of the critic's loss on replayed rows")
    return_rate: Part = Field(0.01, description="step size of the averages of the returns' percentiles")

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, classes: int | None) -> int | None:
        """Reject a class without information, and more than a byte holds, in which the buffer stores a categorical."""
        if classes is not None and not 2 <= classes <= 256:
            raise ValueError("must be from 2 to 256")
        return classes

    @property
    def widths(self) -> Widths:
        """Return the widths of `size`, replaced by those that are set by hand."""
        chosen = {name: getattr(self, name) for name in ("deter", "hidden", "classes", "depth", "units")}
        return replace(SIZES[self.size], **{name: width for name, width in chosen.items() if width is not None})

    @property
    def stored_bytes(self) -> int:
        """Bytes of the stored state."""
        return 4 * self.widths.deter + self.categoricals

    @property
    def gamma(self) -> float:
        """Return the discount factor."""
        return 1.0 - 1.0 / self.effective_horizon

    def space_warnings(self, spaces: Spaces) -> Iterator[str]:
        """Yield also a line for each width by hand beside a size that isn't the default."""
        yield from super().space_warnings(spaces)
        if self.size != type(self).model_fields["size"].default:
            for name, width in asdict(SIZES[self.size]).items():
                given = getattr(self, name)
                if given not in (None, width):
                    yield (
                        f"algo.{name}={given} replaces the {width} of algo.size={self.size}; use algo.{name}=null for "
                        "the width of the size"
                    )

    def space_mistakes(self, spaces: Spaces) -> Iterator[str]:
        """Yield also a line for each width that can't be divided into the blocks."""
        from sheeprl.envs.transforms import input_keys

        yield from super().space_mistakes(spaces)
        deter, depth = self.widths.deter, self.widths.depth
        if deter % self.blocks:
            yield f"algo.deter={deter}: must be a multiple of algo.blocks={self.blocks}"
        _, pictures = input_keys(spaces.observation, self.mlp_keys, self.cnn_keys)
        if pictures and 4 * depth % self.blocks:
            yield f"algo.depth={depth}: 4 * algo.depth must be a multiple of algo.blocks={self.blocks} for pictures"
