"""Grid worlds of MiniGrid and BabyAI: `MiniGrid-DoorKey-5x5-v0`."""

from __future__ import annotations

import importlib

import gymnasium

from sheeprl.envs.families.base import Family


class MiniGrid(Family):
    """Grid worlds; their observations have a text, `mission`, which a wrapper such as ImgObsWrapper drops."""

    prefixes = ("MiniGrid-", "BabyAI-")
    package = "minigrid"
    extra = "minigrid"
    without_text = "env.wrappers=[one_hot_grid] or env.wrappers=[ImgObsWrapper]"
    wrappers = "minigrid.wrappers"

    def register(self) -> None:
        """Register the worlds."""
        gymnasium.register_envs(importlib.import_module("minigrid"))
