"""Watch a policy play: in a window, or as colored blocks in a terminal."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np
from gymnasium.error import DependencyNotInstalled

from sheeprl.checkpoint.best import named_checkpoint
from sheeprl.checkpoint.files import step_of
from sheeprl.checkpoint.resume import read_env_values
from sheeprl.checkpoint.run_dir import read_config
from sheeprl.config.loading import validate
from sheeprl.envs.changes import set_attributes
from sheeprl.envs.hints import missing_module
from sheeprl.envs.make import EnvSettingsError, make_env
from sheeprl.envs.snapshot import close_quietly
from sheeprl.policy.interface import Policy
from sheeprl.policy.loading import load_checkpoint
from sheeprl.utils.errors import ConfigError

BLOCK = "\x1b[38;2;{};{};{}m\x1b[48;2;{};{};{}m▀"
HOME, CLEAR, RESET = "\x1b[H", "\x1b[2J", "\x1b[0m"


@dataclass(frozen=True)
class Played:
    """Episode that was watched.

    Args:
        policy_steps: policy steps of the checkpoint.
        total: undiscounted return.
        length: number of steps.
    """

    policy_steps: int
    total: float
    length: int


def has_display() -> bool:
    """Return whether a window can be opened."""
    return sys.platform == "darwin" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())


def enjoy(
    path: str,
    terminal: bool | None = None,
    follow: bool = False,
    best: bool = False,
    seed: int = 0,
    fps: float | None = None,
    stream: TextIO | None = None,
) -> Iterator[Played]:
    """Play episodes forever, and yield each one after its end.

    Args:
        path: a run or a checkpoint.
        terminal: True to draw into the terminal, False to open a window; None for a window if there is a display.
        follow: True to load the newest checkpoint before each episode.
        best: True for the best checkpoint of a run.
        seed: seed of the first reset.
        fps: steps per second; None for those of the environment.
        stream: stream for the pictures of a terminal; None for stdout.

    Raises:
        ConfigError: there is no such run or checkpoint, or its environment can't be made or drawn.
    """
    run_dir, checkpoint = named_checkpoint(path, best)
    in_terminal = not has_display() if terminal is None else terminal
    if not in_terminal and not has_display():
        raise ConfigError(["--window: there is no display (DISPLAY is not set); leave it out to draw in the terminal"])
    try:
        config = validate(read_config(run_dir))
        env = make_env(config.eval_env, "rgb_array" if in_terminal else "human")
    except EnvSettingsError as error:
        raise ConfigError([str(error)]) from error
    set_attributes(env, config.eval.changes_of_env(read_env_values(checkpoint)))
    show = _terminal_picture(stream or sys.stdout) if in_terminal else None
    pace = 1 / (fps or float(env.metadata.get("render_fps") or 30))
    policy = load_checkpoint(str(checkpoint))
    try:
        for number in range(sys.maxsize):
            if follow and number and (newest := named_checkpoint(path)[1]) != checkpoint:
                policy, checkpoint = load_checkpoint(str(newest)), newest
                set_attributes(env, config.eval.changes_of_env(read_env_values(checkpoint)))
            yield _play(env, policy, step_of(checkpoint), seed if number == 0 else None, pace, show)
    except (DependencyNotInstalled, ImportError) as error:  # environments import what draws them when they draw
        raise ConfigError([missing_module(error)]) from error
    finally:
        close_quietly(env)


def _play(
    env: Any, policy: Policy, policy_steps: int, seed: int | None, pace: float, show: Callable[[Any], None] | None
) -> Played:
    """Play one episode."""
    policy.reset()
    obs, reward, total, length, ended = env.reset(seed=seed)[0], 0.0, 0.0, 0, False
    while not ended:
        began = time.monotonic()
        if show is not None:
            show(env.render())
        obs, reward, terminated, truncated, _ = env.step(policy(obs, reward))
        total, length, ended = total + float(reward), length + 1, terminated or truncated
        time.sleep(max(0.0, pace - (time.monotonic() - began)))
    return Played(policy_steps, total, length)


def _terminal_picture(stream: TextIO) -> Callable[[Any], None]:
    """Return a function that draws a picture over the previous one."""
    clear = [CLEAR + HOME]  # before the first picture

    def show(picture: Any) -> None:
        """Draw a picture `[H, W, 3]`.

        Raises:
            ConfigError: the environment has no picture.
        """
        if not isinstance(picture, np.ndarray) or picture.ndim != 3:
            raise ConfigError(["the environment returns no picture from render(); it can't be watched"])
        size = shutil.get_terminal_size()
        start = clear.pop() if clear else HOME
        stream.write(start + as_text(picture, size.columns, size.lines - 2) + RESET + "\n")
        stream.flush()

    return show


def as_text(picture: Any, columns: int, lines: int) -> str:
    """Return a picture `[H, W, 3]` as lines of half blocks, each with the colors of two pixels.

    Args:
        picture: bytes.
        columns: most characters of a line.
        lines: most lines.
    """
    height, width = picture.shape[:2]
    scale = max(width / max(1, columns), height / max(2, 2 * lines))
    new_width, new_height = max(1, int(width / scale)), max(2, int(height / scale) // 2 * 2)
    rows = (np.arange(new_height) * height / new_height).astype(int)
    columns_at = (np.arange(new_width) * width / new_width).astype(int)
    small = np.asarray(picture)[rows][:, columns_at, :3]
    return "\n".join(
        "".join(BLOCK.format(*upper, *lower) for upper, lower in zip(small[row], small[row + 1], strict=True)) + RESET
        for row in range(0, new_height, 2)
    )
