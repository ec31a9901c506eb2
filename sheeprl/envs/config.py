"""The `env` section of the configuration."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from sheeprl.utils.settings import Count, Section


class EnvConfig(Section):
    """Settings of the environment."""

    id: str = Field(description="gymnasium id, also module:id")
    num_envs: Count = Field(4, description="environments of one player")
    vectorization: Literal["sync", "async", "native"] = Field(
        "sync",
        description="sync: one after another; async: one process per env; native: the env's native vector version",
    )
    max_episode_steps: Count | None = Field(None, description="truncate episodes after this many steps")
    kwargs: dict[str, Any] = Field(
        default_factory=dict, description="arguments of the environment itself: any values that YAML can store"
    )
    wrappers: tuple[str | dict[str, Any], ...] = Field(
        (),
        strict=False,
        description="wrappers around each env, the innermost first: a short name, package.module:Class, or a mapping "
        "of its path and its arguments",
    )
    capture_video: bool = Field(False, description="record episodes of the first environment (extra: video)")

    @field_validator("wrappers")
    @classmethod
    def _check_wrappers(cls, wrappers: tuple[str | dict[str, Any], ...]) -> tuple[str | dict[str, Any], ...]:
        """Reject a mapping without the path of a wrapper, or with arguments that no call can pass."""
        for number, wrapper in enumerate(wrappers):
            if isinstance(wrapper, str):
                continue
            if not isinstance(wrapper.get("path"), str) or not all(isinstance(name, str) for name in wrapper):
                raise PydanticCustomError(
                    "wrapper", "has no path; write {{path: frame_stack, stack_size: 4}}", {"where": f"[{number}]"}
                )
        return wrappers

    @property
    def wrapper_calls(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        """Return the path and the arguments of each wrapper, the innermost first."""
        pairs = ((entry, {}) if isinstance(entry, str) else (entry["path"], dict(entry)) for entry in self.wrappers)
        return tuple((path, {name: part for name, part in given.items() if name != "path"}) for path, given in pairs)
