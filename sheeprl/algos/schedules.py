"""Schedules of numbers over a run."""

from __future__ import annotations


def linear(start: float, end: float | None, progress: float) -> float:
    """Return the value at `progress`, from 0 to 1, on the line from `start` to `end`; None for a constant `start`."""
    return start if end is None else start * (1.0 - progress) + end * progress


def rate_scale(rate: float, final_rate: float | None, progress: float) -> float:
    """Return the factor on the learning rate `rate` that reaches `final_rate` linearly; 1 if that is None."""
    return linear(1.0, None if final_rate is None else final_rate / rate, progress)
