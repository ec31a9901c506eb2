"""What must be settled before Ray is imported, since it reads its environment then."""

from __future__ import annotations

import os
import sys

from sheeprl.config.defaults import cluster_address
from sheeprl.config.schema import Config


def configure(config: Config) -> None:
    """Set Ray's environment, where the user hasn't.

    A Ray that is started for the run asks everybody for a token: it listens on the network, whatever address it is
    given. A cluster that is joined has made its own choice.
    """
    if "ray" in sys.modules:
        return  # too late; the program that imported it has chosen
    if cluster_address(config) is None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    # Ray warns of a future default for workers without accelerators, about which the user can do nothing.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # A call that fails returns a failed pair; the run looks at one half, and Ray would print the other as unhandled.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
