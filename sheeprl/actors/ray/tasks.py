"""Join or start Ray for programs that run tasks or servers on it, beside the actors of a run."""

from __future__ import annotations

import math

from sheeprl.actors.ray import environment
from sheeprl.config.defaults import available_cores
from sheeprl.utils.errors import ConfigError, RunFailedError


def start_ray(address: str | None, source: str = "RAY_ADDRESS", least_cpus: float = 0.0) -> bool:
    """Join a cluster, or start a local Ray with the cores of this process; return False if one runs in this process.

    Args:
        address: address of the cluster; None to start a local Ray.
        source: setting or variable that names the address.
        least_cpus: cores that a local Ray offers at least.

    Raises:
        ConfigError: Ray can't be started with the variables of this shell.
        RunFailedError: it can't be started or joined.
    """
    if address is None and (mistakes := list(environment.local_mistakes())):
        raise ConfigError(mistakes)
    environment.configure_at(address)
    from sheeprl.actors.ray import cluster  # imports Ray, which reads its variables then
    from sheeprl.actors.ray.waiting import ClusterError

    try:
        cpus = max(available_cores(), math.ceil(least_cpus))
        return cluster.join_or_start(address, source, cpus, "use sheeprl doctor to look for causes")
    except ClusterError as error:
        raise RunFailedError(str(error)) from error
