"""The environment in which a saved policy plays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sheeprl.checkpoint.resume import read_env_values
from sheeprl.config.schema import Config
from sheeprl.envs.changes import EnvChangeError, set_attributes
from sheeprl.envs.make import EnvSettingsError, make_env
from sheeprl.utils.errors import ConfigError


def make_evaluation_env(config: Config, checkpoint: Path, render_mode: str | None = None) -> Any:
    """Make the environment of a run's evaluations, with the attributes that callbacks had set before a checkpoint.

    Args:
        config: configuration of the run.
        checkpoint: the checkpoint.
        render_mode: how the environment draws; None if it needn't.

    Raises:
        ConfigError: the environment can't be made, or has no such attribute.
    """
    try:
        env = make_env(config.eval_env, render_mode)
        set_attributes(env, config.eval.changes_of_env(read_env_values(checkpoint)))
    except EnvSettingsError as error:
        raise ConfigError([str(error)]) from error
    except EnvChangeError as error:
        raise ConfigError([f"{config.eval_env.id}: {error}"]) from error
    return env
