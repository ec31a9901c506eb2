"""Read time spans such as `2h`."""

from __future__ import annotations

import re

from sheeprl.utils.errors import ConfigError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
"""Seconds of each unit of a time span."""


def seconds_of(span: str, option: str) -> float:
    """Return the seconds of a time span such as `2h`, `30m` or `14d`.

    Args:
        span: a positive number and a unit.
        option: option that has the span, for the message.

    Raises:
        ConfigError: it is something else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", span)
    seconds = float(match[1]) * UNITS[match[2]] if match else 0.0
    if not seconds:
        raise ConfigError([f"{option} {span}: must be a positive number with a unit of s, m, h, d or w, such as 2h"])
    return seconds
