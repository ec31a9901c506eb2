"""Families of environments, one file each; the beginning of an id chooses the family."""

from __future__ import annotations

import importlib.util

from sheeprl.envs.families.atari import Atari
from sheeprl.envs.families.base import Family
from sheeprl.envs.families.crafter import Crafter
from sheeprl.envs.families.dm_control import DMControl
from sheeprl.envs.families.minatar import MinAtar
from sheeprl.envs.families.minigrid import MiniGrid

FAMILIES: tuple[Family, ...] = (Atari(), DMControl(), MinAtar(), MiniGrid(), Crafter())
_OTHERS = Family()


def family_of(env_id: str) -> Family:
    """Return the family of an id; that of gymnasium's own environments and of all others has no package."""
    for family in FAMILIES:
        if env_id.startswith(family.prefixes):
            return family
    return _OTHERS


def is_installed(family: Family) -> bool:
    """Return True if the package of a family can be imported."""
    return not family.package or importlib.util.find_spec(family.package) is not None
