"""Base class of all sections of the configuration, and their number types."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """Frozen, strictly typed group of settings that rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)


STRUCTURAL: dict[str, Any] = {"structural": True}
"""`json_schema_extra` of arguments that shape the networks: a resumed run can't change them."""


def _whole(value: Any) -> Any:
    """Convert a whole float, such as the step count 1e6, to an int; return other values unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Int = Annotated[int, BeforeValidator(_whole)]
Count = Annotated[Int, Field(ge=1)]
Natural = Annotated[Int, Field(ge=0)]
Sizes = Annotated[tuple[Count, ...], Field(strict=False)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fractional = Annotated[float, Field(ge=0, le=1)]
