"""Standard preprocessing of Atari games (Machado et al. 2018; Mnih et al. 2015)."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from sheeprl.envs.wrappers.clip_reward import ClipReward
from sheeprl.envs.wrappers.episode_statistics import EpisodeStatistics
from sheeprl.envs.wrappers.frame_stack import FrameStack
from sheeprl.envs.wrappers.images import AreaResize


def atari(
    env: gymnasium.Env[Any, Any],
    *,
    noop_max: int = 30,
    frame_skip: int = 4,
    screen_size: int = 84,
    grayscale: bool = True,
    frame_stack: int = 4,
    life_loss: bool = False,
    fire_reset: bool = True,
    clip_reward: bool = True,
) -> gymnasium.Env[Any, Any]:
    """Return a game with the standard preprocessing: observations are bytes `[frame_stack, size, size]`.

    Args:
        env: a game of ale-py that shows every frame.
        noop_max: greatest number of no-ops after a reset.
        frame_skip: frames per action; the observation is the maximum of the last two.
        screen_size: height and width of an observation.
        grayscale: False for RGB, `[frame_stack, size, size, 3]`.
        frame_stack: observations in a stack; 1 for none, `[size, size]`.
        life_loss: end an episode at the loss of a life. Metrics and evaluations count whole games.
        fire_reset: press FIRE after a reset if the game has this button.
        clip_reward: train on the signs of the rewards. Metrics and evaluations show the true returns.

    Raises:
        ValueError: an environment of another family, or an argument that is out of range.
    """
    env = AtariFrames(env, noop_max, frame_skip, screen_size, grayscale)
    env = EpisodeStatistics(env)
    if life_loss:
        env = LifeLoss(env)
    if fire_reset and FireReset.has_button(env):
        env = FireReset(env)
    if clip_reward:
        env = ClipReward(env)
    return FrameStack(env, frame_stack) if frame_stack > 1 else env


class AtariFrames(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Skip frames, take the maximum of the last two, and resize it.

    Args:
        env: a game of ale-py with `frameskip=1`.
        noop_max: greatest number of no-ops after a reset; their number is drawn from 1 on.
        frame_skip: frames per action.
        screen_size: height and width of an observation.
        grayscale: False for RGB.

    Raises:
        ValueError: an environment of another family, or an argument that is out of range.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        noop_max: int = 30,
        frame_skip: int = 4,
        screen_size: int = 84,
        grayscale: bool = True,
    ) -> None:
        """Compute the space and make room for two frames."""
        super().__init__(env)
        game: Any = env.unwrapped
        if not hasattr(game, "ale"):
            raise ValueError(
                f"{env.spec.id if env.spec else game} isn't a game of ale-py; use an id such as ALE/Pong-v5"
            )
        if getattr(game, "_frameskip", 1) != 1:
            raise ValueError(f"the game skips frames itself (frameskip={game._frameskip}); set env.kwargs.frameskip=1")
        if noop_max < 0 or frame_skip < 1 or screen_size < 1:
            raise ValueError("noop_max must be at least 0, frame_skip and screen_size at least 1")
        self.noop_max, self.frame_skip, self.grayscale = noop_max, frame_skip, grayscale
        height, width = game.ale.getScreenDims()
        colors = () if grayscale else (3,)
        self._newest, self._before = (np.zeros((height, width, *colors), np.uint8) for _ in range(2))
        self._resize = AreaResize((height, width), (screen_size, screen_size))
        self.observation_space = spaces.Box(0, 255, (screen_size, screen_size, *colors), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin a game with some no-ops, which make its start random."""
        _, info = self.env.reset(seed=seed, options=options)
        count = int(self.unwrapped.np_random.integers(1, self.noop_max + 1)) if self.noop_max else 0
        for _ in range(count):
            _, _, terminated, truncated, info = self.env.step(0)
            if terminated or truncated:
                _, info = self.env.reset(options=options)
        self._read_screen(self._newest)
        return self._resize(self._newest), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take an action for `frame_skip` frames."""
        total = 0.0
        for frame in range(self.frame_skip):
            _, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
            if frame == self.frame_skip - 2:
                self._read_screen(self._before)
        self._read_screen(self._newest)
        if self.frame_skip > 1 and not (terminated or truncated):
            np.maximum(self._newest, self._before, out=self._newest)
        return self._resize(self._newest), total, terminated, truncated, info

    def _read_screen(self, frame: Any) -> None:
        """Copy the screen into a frame."""
        ale = _ale(self)
        (ale.getScreenGrayscale if self.grayscale else ale.getScreenRGB)(frame)


def _ale(env: gymnasium.Env[Any, Any]) -> Any:
    """Return the emulator of a game."""
    game: Any = env.unwrapped
    return game.ale


class LifeLoss(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Report the loss of a life as an end, after which a reset without a seed continues the game.

    A reset with a seed begins a new game.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        """Start before the first game."""
        super().__init__(env)
        self.lives, self.is_game_over = 0, True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Continue with a no-op after a lost life, else begin a game."""
        if self.is_game_over or seed is not None:
            obs, info = self.env.reset(seed=seed, options=options)
        else:
            obs, _, terminated, truncated, info = self.env.step(0)
            if terminated or truncated:
                obs, info = self.env.reset(options=options)
        self.is_game_over = False
        self.lives = _ale(self).lives()
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step; end at the loss of a life."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.is_game_over = terminated or truncated
        before, self.lives = self.lives, _ale(self).lives()
        return obs, reward, terminated or 0 < self.lives < before, truncated, info


class FireReset(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Press FIRE after each reset, for games that wait for it."""

    FIRE = 1

    @staticmethod
    def has_button(env: gymnasium.Env[Any, Any]) -> bool:
        """Return True if FIRE is among the actions of a game, in its usual place."""
        game: Any = env.unwrapped
        meanings = game.get_action_meanings()
        return len(meanings) > FireReset.FIRE and meanings[FireReset.FIRE] == "FIRE"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode and press FIRE."""
        _, info = self.env.reset(seed=seed, options=options)
        obs, _, terminated, truncated, info = self.env.step(self.FIRE)
        if terminated or truncated:
            obs, info = self.env.reset(options=options)
        return obs, info
