"""Base class of all sections of the configuration, and their number types."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

STORABLE = (type(None), bool, int, float, str, bytes)  # YAML stores them and reads back the same value and type
STORABLE_CONTAINERS = (list, tuple, set)


class Section(BaseModel):
    """Frozen, strictly typed section of settings that rejects unknown keys.

    A setting that is a mapping, such as `env.kwargs`, or a sequence with mappings, such as `env.wrappers`, may contain
    anything that YAML can store.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _check_storable(cls, value: Any) -> Any:
        """Reject a mapping that YAML can't store: a resumed run would get other arguments."""
        if _has_mapping(value):
            for where, part in unstorable_parts(value):
                raise PydanticCustomError("unstorable", "can't be stored", {"where": where, "part": part})
        return value

    def to_tree(self) -> dict[str, Any]:
        """Return the settings as data that YAML can store; mappings are exact copies."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        below = {name: value for name, value in values.items() if isinstance(value, Section) or _has_mapping(value)}
        tree = self.model_dump(mode="json", exclude=set(below))
        for name, value in below.items():
            if isinstance(value, Section):
                tree[name] = value.to_tree()
            else:
                tree[name] = copy.deepcopy(list(value) if isinstance(value, tuple) else value)
        return {name: tree[name] for name in values if name in tree}


def _has_mapping(value: Any) -> bool:
    """Return True for a mapping and for a sequence with one."""
    return isinstance(value, dict) or (isinstance(value, tuple) and any(isinstance(part, dict) for part in value))


def unstorable_parts(value: Any, where: str = "", parents: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of each part that YAML can't store.

    Args:
        value: a mapping, a container or a single value.
        where: path of `value`.
        parents: containers that contain `value`; a part that contains itself can't be stored.
    """
    if type(value) in STORABLE:
        return
    if type(value) not in (dict, *STORABLE_CONTAINERS) or any(value is parent for parent in parents):
        yield where, value
        return
    parents = (*parents, value)
    if type(value) is not dict:
        for number, part in enumerate(value):
            yield from unstorable_parts(part, f"{where}[{number}]", parents)
        return
    for key, part in value.items():
        below = f"{where}.{key}" if type(key) is str else f"{where}[{key!r}]"
        yield from unstorable_parts(key, below, parents)
        yield from unstorable_parts(part, below, parents)


STRUCTURAL: dict[str, Any] = {"structural": True}
"""`json_schema_extra` of arguments that shape the networks: a resumed run can't change them."""


def needs(*conditions: str) -> dict[str, Any]:
    """Return the `json_schema_extra` of a setting that has an effect only under conditions.

    Args:
        conditions: names in `sheeprl.config.effects.CONDITIONS`, or settings such as `eval.episodes` (not 0, false or
            null), `algo.head=iqn` and `algo.head=qr|iqn`.
    """
    return {"needs": list(conditions)}


def searched(*choices: Any) -> dict[str, Any]:
    """Return the `json_schema_extra` of a setting that `sheeprl tune` searches among some values."""
    return {"search": {"choices": list(choices)}}


def searched_between(low: float, high: float, log: bool = False) -> dict[str, Any]:
    """Return the `json_schema_extra` of a setting that `sheeprl tune` searches in a range.

    Args:
        low: least value.
        high: largest value.
        log: True to draw the logarithm uniformly.
    """
    return {"search": {"low": low, "high": high, "log": log}}


LEARNING_RATES = searched_between(1e-5, 1e-2, log=True)
"""Range of learning rates; use it as `json_schema_extra`, as the following ones."""
DISCOUNTS = searched(0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
"""Values of discount factors."""
STEP_SIZES = searched_between(1e-3, 0.1, log=True)
"""Range of the step sizes of target networks."""


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
Part = Annotated[float, Field(gt=0, le=1)]
