"""The `env` section of the configuration."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

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
    wrappers: tuple[str, ...] = Field(
        (), strict=False, description="gymnasium wrappers around each env, package.module:Class"
    )
    capture_video: bool = Field(False, description="record episodes of the first environment (extra: video)")
