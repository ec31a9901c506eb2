"""Keys of Dict observations that a wrapper changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gymnasium import Space, spaces

from sheeprl.envs.transforms import pixel_keys


def chosen_keys(space: Space[Any], keys: Sequence[str] | None) -> tuple[str, ...]:
    """Return the keys of a Dict observation that a wrapper changes; none for a plain observation.

    Args:
        space: observation space.
        keys: the keys; None for the pictures, or for every Box if there is no picture.

    Raises:
        ValueError: a key doesn't exist, or a chosen part isn't a Box.
    """
    if not isinstance(space, spaces.Dict):
        if keys is not None:
            raise ValueError(f"keys={list(keys)}: the observation is a {type(space).__name__}, not a Dict")
        _require_box("observation", space)
        return ()
    boxes = [name for name, part in space.items() if isinstance(part, spaces.Box)]
    if keys is None:
        keys = [name for name in boxes if pixel_keys(space[name])] or boxes
    for name in keys:
        if name not in space.spaces:
            raise ValueError(f"keys={list(keys)}: the observation has the keys {list(space)}, not {name!r}")
        _require_box(f"observation[{name!r}]", space[name])
    if not keys:
        raise ValueError("the observation has no Box to change")
    return tuple(keys)


def _require_box(name: str, space: Space[Any]) -> None:
    """Raise ValueError if a space isn't a Box."""
    if not isinstance(space, spaces.Box):
        raise ValueError(f"the {name} is a {type(space).__name__}, not a Box")


def dict_space(space: Space[Any]) -> spaces.Dict:
    """Return a Dict space, with a plain observation as its key `obs`."""
    return space if isinstance(space, spaces.Dict) else spaces.Dict({"obs": space})


def as_dict(obs: Any, space: Space[Any]) -> dict[str, Any]:
    """Return a new dict of an observation, with a plain one as its key `obs`."""
    return dict(obs) if isinstance(space, spaces.Dict) else {"obs": obs}


def require_new_key(name: str, space: Space[Any]) -> None:
    """Raise ValueError if a Dict observation has the key already."""
    if isinstance(space, spaces.Dict) and name in space.spaces:
        raise ValueError(f"the observation has a key {name!r} already; choose another one with key=")
