"""Figures that a benchmark promises to keep on one side of a bound; `python -m benchmarks report` tabulates them.

A result that has them lists them under `bounds`, at the top or with each of its cases.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness.record import Json


@dataclass(frozen=True)
class Bound:
    """A figure that is to stay on one side of a bound; without a bound it is for comparison only.

    Args:
        name: what it is a figure of.
        value: what was reached, the median where it was measured several times.
        at_most: the bound, if it is from above.
        at_least: the bound, if it is from below.
        hope: what would be better still, on the same side.
        spread: least and most of the rounds.
    """

    name: str
    value: float
    at_most: float | None = None
    at_least: float | None = None
    hope: float | None = None
    spread: tuple[float, float] | None = None

    @classmethod
    def of(
        cls,
        name: str,
        rounds: Sequence[float],
        *,
        at_most: float | None = None,
        at_least: float | None = None,
        hope: float | None = None,
    ) -> Bound:
        """The median and the spread of several rounds."""
        return cls(name, statistics.median(rounds), at_most, at_least, hope, (min(rounds), max(rounds)))

    @property
    def met(self) -> bool | None:
        """Whether it does; None where there is no bound."""
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.at_least is None else self.value >= self.at_least

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" [{self.spread[0]:.3g}, {self.spread[1]:.3g}]"
        if self.met is None:
            return f"{self.name}: {self.value:.3g}{spread}"
        sign, limit = ("≤", self.at_most) if self.at_most is not None else ("≥", self.at_least)
        hope = "" if self.hope is None else f", hoped {sign} {self.hope:g}"
        return (
            f"{self.name}: {self.value:.3g}{spread}, must be {sign} {limit:g}{hope}: {'met' if self.met else 'NOT MET'}"
        )

    def as_json(self) -> Json:
        """As it stands in the result."""
        limits = {"at_most": self.at_most, "at_least": self.at_least, "hope": self.hope}
        result: Json = {"name": self.name, "value": rounded(self.value)}
        if self.spread is not None:
            result["spread"] = [rounded(value) for value in self.spread]
        result |= {name: rounded(limit) for name, limit in limits.items() if limit is not None}
        return result | ({} if self.met is None else {"met": self.met})


def rounded(value: float) -> float:
    """Five significant digits."""
    return float(f"{value:.5g}")
