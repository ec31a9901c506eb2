"""Join or start Ray for programs that run tasks or servers on it, beside the actors of a run."""

from __future__ import annotations

import logging
import math
from typing import Any

from sheeprl.actors.ray import environment
from sheeprl.config.defaults import available_cores
from sheeprl.utils.errors import ConfigError, RunFailedError, one_line


def start_ray(address: str | None, least_cpus: float = 0.0) -> bool:
    """Join a cluster, or start a local Ray with the cores of this process; return False if one runs in this process.

    Args:
        address: address of the cluster; None to start a local Ray.
        least_cpus: cores that a local Ray offers at least.

    Raises:
        ConfigError: Ray can't be started with the variables of this shell.
        RunFailedError: it can't be started or joined.
    """
    if address is None and (mistakes := list(environment.local_mistakes())):
        raise ConfigError(mistakes)
    environment.configure_at(address)
    import ray

    from sheeprl.actors.ray import internals

    if ray.is_initialized():
        return False
    local = {"num_cpus": max(available_cores(), math.ceil(least_cpus)), "include_dashboard": False}
    options: dict[str, Any] = {"address": address} if address else {"address": "local", **local}
    try:
        internals.leave_losses_to_the_run()
        with internals.apart_from_signals():
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises a plain Exception if its processes don't start in time
        raise RunFailedError(f"Ray can't be started: {one_line(error)}; sheeprl doctor looks for causes") from error
    return True
