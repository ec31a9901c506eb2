"""Games of MinAtar (Young and Tian 2019): `MinAtar/Breakout-v1`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from sheeprl.envs.families.base import Family

GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
FRAMES = 5000
"""Steps after which gymnax and the published PPO results truncate an episode; MinAtar itself never does."""
SCALE = 8  # pixels per cell of a rendered frame


class MinAtar(Family):
    """Games on a grid of 10 x 10 cells."""

    prefixes = ("MinAtar/",)
    package = "minatar"
    extra = "minatar"

    def register(self) -> None:
        """Register the games with all six actions as v0 and with their own ones as v1, as MinAtar does."""
        for game in GAMES:
            for version, minimal in ((0, False), (1, True)):
                env_id = f"MinAtar/{game.title().replace('_', '')}-v{version}"
                if env_id not in gymnasium.registry:
                    gymnasium.register(
                        env_id,
                        f"{__name__}:MinAtarEnv",
                        max_episode_steps=FRAMES,
                        kwargs={"game": game, "use_minimal_action_set": minimal},
                    )


class MinAtarEnv(gymnasium.Env[Any, Any]):
    """Game of MinAtar whose observations are bytes `[10, 10, C]` of 0 and 255, one channel per kind of object.

    MinAtar's own class for gymnasium returns booleans and imports seaborn.

    Args:
        game: name of the game.
        use_minimal_action_set: offer the actions that have an effect only.
        render_mode: None or `rgb_array`.
        sticky_action_prob: probability that the last action is repeated.
        difficulty_ramping: make the game harder over time.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - gymnasium's form

    def __init__(
        self,
        game: str,
        use_minimal_action_set: bool = True,
        render_mode: str | None = None,
        sticky_action_prob: float = 0.1,
        difficulty_ramping: bool = True,
    ) -> None:
        """Make the game."""
        from minatar import Environment

        self.render_mode = render_mode
        self.game = Environment(game, sticky_action_prob=sticky_action_prob, difficulty_ramping=difficulty_ramping)
        every = list(range(self.game.num_actions()))
        self.actions = self.game.minimal_action_set() if use_minimal_action_set else every
        self.action_space = spaces.Discrete(len(self.actions))
        self.observation_space = spaces.Box(0, 255, tuple(self.game.state_shape()), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        if seed is not None:
            self.game.seed(seed)
        self.game.reset()
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take an action."""
        reward, terminated = self.game.act(self.actions[int(action)])
        return self._observe(), float(reward), bool(terminated), False, {}

    def render(self) -> Any:
        """Return the picture of the grid, each kind of object in its color."""
        state = self.game.state()
        channels = state.shape[-1]
        hues = np.linspace(0.0, 2 * np.pi, channels, endpoint=False)[:, None] + np.array([0.0, 2.1, 4.2])
        colors = np.concatenate([[[0, 0, 0]], 127 + 128 * np.cos(hues)]).clip(0, 255).astype(np.uint8)
        top = (state * np.arange(1, channels + 1)).max(axis=2)  # objects of later channels cover the others
        return colors[top].repeat(SCALE, axis=0).repeat(SCALE, axis=1)

    def _observe(self) -> Any:
        """Return the observation."""
        return self.game.state().astype(np.uint8) * np.uint8(255)
