"""Required, target and measured values; `python -m benchmarks report` tabulates them.

A result lists its bounds under `bounds`, at the top level or in each of its cases.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness.record import Json


@dataclass(frozen=True)
class Bound:
    """Measured figure with a required bound; without a bound it is for comparison only.

    Args:
        name: name of the figure.
        value: measured value, the median of several rounds.
        at_most: required upper bound.
        at_least: required lower bound.
        target: value to aim for, beyond the required bound.
        spread: minimum and maximum of the rounds.
    """

    name: str
    value: float
    at_most: float | None = None
    at_least: float | None = None
    target: float | None = None
    spread: tuple[float, float] | None = None

    @classmethod
    def of(
        cls,
        name: str,
        rounds: Sequence[float],
        *,
        at_most: float | None = None,
        at_least: float | None = None,
        target: float | None = None,
    ) -> Bound:
        """Return the median and the spread of several rounds."""
        return cls(name, statistics.median(rounds), at_most, at_least, target, (min(rounds), max(rounds)))

    @property
    def met(self) -> bool | None:
        """Return True if the figure meets the bound, None without a bound."""
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.at_least is None else self.value >= self.at_least

    def __str__(self) -> str:
        """Return the figure with its spread, the bound and the verdict."""
        spread = "" if self.spread is None else f" [{self.spread[0]:.3g}, {self.spread[1]:.3g}]"
        if self.met is None:
            return f"{self.name}: {self.value:.3g}{spread}"
        sign, limit = ("≤", self.at_most) if self.at_most is not None else ("≥", self.at_least)
        target = "" if self.target is None else f", target {sign} {self.target:g}"
        verdict = "met" if self.met else "NOT MET"
        return f"{self.name}: {self.value:.3g}{spread}, required {sign} {limit:g}{target}: {verdict}"

    def as_json(self) -> Json:
        """Return the figure as the results store it."""
        # The committed results name the target "hope".
        limits = {"at_most": self.at_most, "at_least": self.at_least, "hope": self.target}
        result: Json = {"name": self.name, "value": rounded(self.value)}
        if self.spread is not None:
            result["spread"] = [rounded(value) for value in self.spread]
        result |= {name: rounded(limit) for name, limit in limits.items() if limit is not None}
        return result | ({} if self.met is None else {"met": self.met})


def rounded(value: float) -> float:
    """Round to five significant digits."""
    return float(f"{value:.5g}")
