"""DroQ's arguments and their defaults."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sheeprl.algos.sac.args import SACArgs
from sheeprl.utils.settings import Count, NonNegative

Rate = Annotated[float, Field(ge=0, lt=1)]


class DroQArgs(SACArgs):
    """Arguments of DroQ, Hiraoka et al. 2022 (2110.02034): SAC's, with other defaults, and the dropout rate."""

    algorithm: ClassVar[str] = "sheeprl.algos.droq.droq:DroQ"
    summary: ClassVar[str] = "DroQ: SAC with dropout and layer normalization in the critics, 20 updates per step"
    observations: ClassVar[tuple[str, ...]] = ("vector",)
    actions: ClassVar[tuple[str, ...]] = ("continuous",)

    replay_ratio: NonNegative = Field(20.0, description="gradient steps per policy step, exact")
    actor_value: Literal["min", "mean"] = Field("mean", description="value that the actor maximizes, over the critics")
    policy_delay: Count = Field(20, description="gradient steps per step of actor and temperature")
    dropout: Rate = Field(0.01, description="probability that an output of a critic's hidden layer is set to 0")
