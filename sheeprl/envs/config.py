"""The `env` section of the configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from sheeprl.utils.settings import Count, Section


def _check_wrapper(wrapper: Any) -> Any:
    """Reject an entry of `env.wrappers` that names no wrapper, or whose arguments no call can pass."""
    if not isinstance(wrapper, str):
        names = [*wrapper] if isinstance(wrapper, dict) else []
        if "path" not in names or not all(isinstance(name, str) for name in [*names, wrapper["path"]]):
            example = "{path: frame_stack, stack_size: 4}"
            raise PydanticCustomError("wrapper", f"must be a name, or a mapping with a path such as {example}")
    return wrapper


Wrapper = Annotated[Any, AfterValidator(_check_wrapper)]
"""Short name or path of a wrapper, or a mapping of its `path` and its arguments."""


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
    wrappers: tuple[Wrapper, ...] = Field(
        (),
        strict=False,
        description="wrappers around each env, the innermost first: a short name, package.module:Class, or a mapping "
        "of its path and its arguments",
    )
    capture_video: bool = Field(False, description="record episodes of the first environment (extra: video)")

    @property
    def wrapper_calls(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        """Return the path and the arguments of each wrapper, the innermost first."""
        pairs = ((entry, {}) if isinstance(entry, str) else (entry["path"], dict(entry)) for entry in self.wrappers)
        return tuple((path, {name: part for name, part in given.items() if name != "path"}) for path, given in pairs)
