"""Base class of all sections of the configuration, and the number types they use."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """A group of settings: frozen, typed strictly, and unknown keys are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)


STRUCTURAL: dict[str, Any] = {"structural": True}
"""`json_schema_extra` of arguments that shape the networks: a resumed run can't change them."""


def _whole(value: Any) -> Any:
    """Let 1e6 stand for 1000000, as people write step counts; leave every other value to the type's own check."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Int = Annotated[int, BeforeValidator(_whole)]
Count = Annotated[Int, Field(ge=1)]
Natural = Annotated[Int, Field(ge=0)]
Sizes = Annotated[tuple[Count, ...], Field(strict=False)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fractional = Annotated[float, Field(ge=0, le=1)]
