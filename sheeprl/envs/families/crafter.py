"""Crafter (Hafner 2021): `Crafter/Reward-v1` and `Crafter/NoReward-v1`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from sheeprl.envs.families.base import Family


class Crafter(Family):
    """The survival game, with and without rewards."""

    prefixes = ("Crafter/",)
    package = "crafter"
    extra = "crafter"

    def register(self) -> None:
        """Register both versions."""
        for name, reward in (("Reward", True), ("NoReward", False)):
            env_id = f"Crafter/{name}-v1"
            if env_id not in gymnasium.registry:
                gymnasium.register(env_id, f"{__name__}:CrafterEnv", kwargs={"reward": reward})


class CrafterEnv(gymnasium.Env[Any, Any]):
    """Crafter's environment with gymnasium's interface.

    The info holds the numbers of unlocked achievements, 0 or 1, and their sum. Death terminates an episode; the end of
    `length` steps truncates it.

    Args:
        reward: give rewards.
        size: height and width of the pictures; one number for both.
        area: cells of the world.
        view: cells that a picture shows.
        length: steps of an episode; None for no limit.
        render_mode: None or `rgb_array`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - gymnasium's form

    def __init__(
        self,
        reward: bool = True,
        size: int | Sequence[int] = 64,
        area: Sequence[int] = (64, 64),
        view: Sequence[int] = (9, 9),
        length: int | None = 10_000,
        render_mode: str | None = None,
    ) -> None:
        """Make the game; its seed is set by the first reset."""
        import crafter

        self.render_mode = render_mode
        height, width = (size, size) if isinstance(size, int) else size
        self.game = crafter.Env(tuple(area), tuple(view), (width, height), reward, length=None, seed=0)
        _order_chunks(self.game._world)
        self.length, self.steps = length, 0
        self.action_space = spaces.Discrete(self.game.action_space.n)
        self.observation_space = spaces.Box(0, 255, (height, width, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in a new world."""
        super().reset(seed=seed)
        # Crafter hashes its seed with the number of the episode; a drawn seed makes the world follow from `np_random`.
        self.game._seed = int(self.np_random.integers(2**31 - 1))
        self.game._episode = 0
        self.steps = 0
        return self.game.reset(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take an action."""
        obs, reward, terminated, info = self.game.step(int(action))
        self.steps += 1
        truncated = not terminated and self.length is not None and self.steps >= self.length
        unlocked = {name: float(count > 0) for name, count in info["achievements"].items()}
        info = {"achievements": unlocked, "achievement_count": sum(unlocked.values())}
        return obs, float(reward), bool(terminated), truncated, info

    def render(self) -> Any:
        """Return a picture of the game."""
        return self.game.render()


class _OrderedSet:
    """Set of objects in the order of their addition; a `set` orders them by their address, which differs per run."""

    def __init__(self) -> None:
        """Start empty."""
        self._items: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        """Return an iterator over the objects."""
        return iter(self._items)

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self._items)

    def add(self, item: Any) -> None:
        """Add an object that isn't in the set."""
        self._items.append(item)

    def remove(self, item: Any) -> None:
        """Remove an object."""
        self._items.remove(item)


def _order_chunks(world: Any) -> None:
    """Make the order of a world's objects, from which the game draws, the same in all runs with equal seeds."""
    reset = world.reset

    def ordered_reset(seed: int | None = None) -> None:
        """Reset the world and replace its sets, which are empty."""
        reset(seed)
        world._chunks = defaultdict(_OrderedSet)

    world.reset = ordered_reset
    world._chunks = defaultdict(_OrderedSet)
