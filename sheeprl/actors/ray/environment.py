"""Environment variables that Ray reads when it is imported."""

from __future__ import annotations

import os
import sys

from sheeprl.config.defaults import cluster_address
from sheeprl.config.schema import Config


def configure(config: Config) -> None:
    """Set Ray's environment variables that the user hasn't set.

    A local Ray requires a token from its clients, since it listens on the network at any address. An existing cluster
    keeps its authentication mode.
    """
    if "ray" in sys.modules:
        return  # Ray has read its environment already
    if cluster_address(config) is None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    # Silence a warning about a future default for workers without accelerators.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # The run reads one half of a failed pair; Ray would print the other half as an unhandled error.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
