"""Detection of wrappers that normalize by running statistics.

Every instance of such a wrapper has its own statistics, which begin empty. An evaluation therefore sees other
observations or rewards than training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium

PARTS = (("mean",), ("var", "std", "m2"), ("count", "n", "num"))
"""Ends of the names of an object's attributes if it holds running statistics, one of each group."""


def with_statistics(env: gymnasium.Env[Any, Any]) -> list[str]:
    """Return the classes of the environment's wrappers that hold running statistics, the outermost first."""
    found = []
    while isinstance(env, gymnasium.Wrapper):
        attributes = vars(env)
        if _are_statistics(attributes) or any(_are_statistics(_attributes_of(part)) for part in attributes.values()):
            found.append(f"{type(env).__module__}:{type(env).__qualname__}")
        env = env.env
    return found


def describe(wrappers: list[str]) -> str:
    """Return the warning about wrappers with running statistics."""
    return (
        f"env.wrappers: {', '.join(wrappers)} normalizes by running statistics; each environment has its own, and "
        "those of an evaluation begin empty, so its returns may be far from those of training; scale by constants in "
        "a wrapper, or normalize inside the policy"
    )


def _attributes_of(value: Any) -> Mapping[str, Any]:
    """Return the attributes of an object, none of a wrapped environment or of a value without any."""
    return {} if isinstance(value, gymnasium.Env) else getattr(value, "__dict__", {})


def _are_statistics(attributes: Mapping[str, Any]) -> bool:
    """Return True if the attributes include a mean, a variance and a count."""
    names = {name.rpartition("_")[2].lower() for name in attributes}
    return all(names & set(group) for group in PARTS)
