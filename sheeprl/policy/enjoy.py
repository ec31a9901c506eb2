"""Play and watch episodes of a saved policy."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

from gymnasium.error import DependencyNotInstalled

from sheeprl.checkpoint.best import named_checkpoint
from sheeprl.checkpoint.files import step_of
from sheeprl.checkpoint.resume import read_env_values
from sheeprl.checkpoint.run_dir import read_config
from sheeprl.checkpoint.runs import resolve_run
from sheeprl.config.loading import validate
from sheeprl.envs.changes import set_attributes
from sheeprl.envs.hints import missing_module
from sheeprl.envs.snapshot import close_quietly
from sheeprl.policy.environment import make_evaluation_env
from sheeprl.policy.interface import Policy
from sheeprl.policy.loading import load_checkpoint
from sheeprl.policy.screens import NoScreen, Screen, WindowClosedError, choose_screen
from sheeprl.utils.errors import ConfigError


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


def enjoy(path: str | PathLike[str], episodes: int = 1, seed: int = 0, fps: float | None = None) -> list[Played]:
    """Watch a policy play: in the notebook that calls this, in a window, or in the terminal.

    Args:
        path: a run (its folder, `@last`, a prefix of its name), or a checkpoint.
        episodes: number of episodes.
        seed: seed of the first reset.
        fps: steps per second; None for those of the environment.

    Returns:
        The episodes; fewer if the window is closed.

    Raises:
        ConfigError: there is no such run or checkpoint, or its environment can't be made or drawn.
    """
    found = resolve_run(fspath(path))
    return list(itertools.islice(play(found, choose_screen(), seed=seed, fps=fps), episodes))


def play(
    path: str,
    screen: Screen,
    follow: bool = False,
    best: bool = False,
    seed: int = 0,
    fps: float | None = None,
) -> Iterator[Played]:
    """Play episodes until the window is closed, and yield each one after its end.

    Args:
        path: a run or a checkpoint.
        screen: where the episodes are shown.
        follow: True to load the newest checkpoint before each episode.
        best: True for the best checkpoint of a run.
        seed: seed of the first reset.
        fps: steps per second; None for those of the environment, or as fast as possible if nothing is drawn.

    Raises:
        ConfigError: there is no such run or checkpoint, or its environment can't be made or drawn.
    """
    run_dir, checkpoint = named_checkpoint(path, best)
    config = validate(read_config(run_dir))
    env = make_evaluation_env(config, checkpoint, screen.render_mode)
    pace = 1 / (fps or float(env.metadata.get("render_fps") or 30))
    if fps is None and isinstance(screen, NoScreen):
        pace = 0.0
    policy = load_checkpoint(str(checkpoint))
    try:
        for number in range(sys.maxsize):
            if follow and number and (newest := named_checkpoint(path)[1]) != checkpoint:
                policy, checkpoint = load_checkpoint(str(newest)), newest
                set_attributes(env, config.eval.changes_of_env(read_env_values(checkpoint)))
            yield _play(env, policy, step_of(checkpoint), seed if number == 0 else None, pace, screen)
    except WindowClosedError:
        return
    except (DependencyNotInstalled, ImportError) as error:  # environments import what draws them when they draw
        raise ConfigError([missing_module(error)]) from error
    finally:
        close_quietly(env)


def _play(env: Any, policy: Policy, policy_steps: int, seed: int | None, pace: float, screen: Screen) -> Played:
    """Play one episode.

    Raises:
        WindowClosedError: the user has closed the window.
    """
    policy.reset()
    obs, reward, total, length, ended = env.reset(seed=seed)[0], 0.0, 0.0, 0, False
    while not ended:
        began = time.monotonic()
        screen.show(env)
        obs, reward, terminated, truncated, _ = env.step(policy(obs, reward))
        total, length, ended = total + float(reward), length + 1, terminated or truncated
        time.sleep(max(0.0, pace - (time.monotonic() - began)))
    return Played(policy_steps, total, length)
