"""Arguments of Plan2Explore and their defaults."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from sheeprl.algos.args import AlgoArgs
from sheeprl.algos.dreamer_v1.args import DreamerV1Args
from sheeprl.algos.dreamer_v2.args import DreamerV2Args
from sheeprl.algos.dreamer_v3.args import DreamerV3Args
from sheeprl.utils.settings import STRUCTURAL, Count, NonNegative, Positive

PATH = "sheeprl.algos.plan2explore.plan2explore"


class Plan2ExploreArgs(AlgoArgs):
    """Arguments of Plan2Explore, Sekar et al. 2020 (2005.05960), besides those of its Dreamer."""

    ensemble: Count = Field(
        10, description="networks that predict the next stochastic state", json_schema_extra=STRUCTURAL, ge=2
    )
    ensemble_units: Count = Field(400, description="width of their hidden layers", json_schema_extra=STRUCTURAL)
    ensemble_layers: Count = Field(4, description="their hidden layers", json_schema_extra=STRUCTURAL)
    ensemble_lr: Positive = Field(3e-4, description="learning rate of the ensemble")
    intrinsic_scale: NonNegative = Field(1.0, description="factor of the intrinsic reward")

    @field_validator("sequence_length", check_fields=False)
    @classmethod
    def _check_length(cls, length: int) -> int:
        """Reject sequences without a next row, which the ensemble predicts."""
        if length < 2:
            raise ValueError("must be at least 2, because the ensemble predicts the next row")
        return length


class P2EDV1Args(DreamerV1Args, Plan2ExploreArgs):
    """Arguments of Plan2Explore on DreamerV1."""

    algorithm: ClassVar[str] = f"{PATH}:P2EDV1"
    summary: ClassVar[str] = "Plan2Explore on DreamerV1: explore without reward, for a later fine-tuning"


class P2EDV2Args(DreamerV2Args, Plan2ExploreArgs):
    """Arguments of Plan2Explore on DreamerV2."""

    algorithm: ClassVar[str] = f"{PATH}:P2EDV2"
    summary: ClassVar[str] = "Plan2Explore on DreamerV2: explore without reward, for a later fine-tuning"


class P2EDV3Args(DreamerV3Args, Plan2ExploreArgs):
    """Arguments of Plan2Explore on DreamerV3."""

    algorithm: ClassVar[str] = f"{PATH}:P2EDV3"
    summary: ClassVar[str] = "Plan2Explore on DreamerV3: explore without reward, for a later fine-tuning"
