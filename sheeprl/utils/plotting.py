"""Import matplotlib, which is an extra."""

from __future__ import annotations

from typing import Any

from sheeprl.utils.errors import ConfigError
from sheeprl.utils.installation import install_command


def pyplot() -> Any:
    """Return matplotlib's figures, which need no display.

    Raises:
        ConfigError: matplotlib isn't installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ConfigError([f"matplotlib isn't installed; use {install_command('plot')}"]) from error
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    return plt
