"""Rows of the learning benchmark: the table `benchmarks/rows.yaml`, and the verdict on a row's result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from benchmarks.harness import record
from benchmarks.harness.record import Json
from sheeprl.config.loading import apply_overrides, read_tree

TABLE = record.ROOT / "benchmarks" / "rows.yaml"
MODES = ("coupled", "decoupled")


class RowError(RuntimeError):
    """Raised when a row can't run; the message names the row and what it needs."""


@dataclass(frozen=True)
class Row:
    """Learning result to reproduce: a configuration, its budget, its requirement and the published scores.

    Args:
        name: name of the row and of its results.
        task: environment, as tables name it.
        algorithm: algorithm, as tables name it.
        folder: folder of the algorithm below `sheeprl/algos`.
        config: stem of a file in `configs`.
        steps: policy steps.
        episodes: evaluation episodes of each seed's final policy.
        seeds: number of seeds that a verdict needs.
        overrides: overrides of the file.
        at_least: required mean over the seeds of their mean returns.
        at_most: bound from above.
        provisional: True if no published score exists at this budget.
        gpu: True if the row is too slow without a GPU.
        peers: published scores with their sources.
        requires: extra to install.
        minutes: minutes of one seed on two cores.
        init_from: row whose run with the same seed gives the first weights and, off-policy, the first rows.
    """

    name: str
    task: str
    algorithm: str
    folder: str
    config: str
    steps: int
    episodes: int
    seeds: int
    overrides: tuple[str, ...] = ()
    at_least: float | None = None
    at_most: float | None = None
    provisional: bool = False
    gpu: bool = False
    peers: str = ""
    requires: str = ""
    minutes: float | None = None
    init_from: Row | None = None

    @property
    def path(self) -> Path:
        """Return the configuration file."""
        return record.ROOT / "configs" / f"{self.config}.yaml"

    @property
    def settings(self) -> tuple[str, ...]:
        """Return all overrides, with the budget."""
        return (*self.overrides, f"run.total_steps={self.steps}")

    @cached_property
    def readme(self) -> Path:
        """Return the README of the algorithm."""
        return record.ROOT / "sheeprl" / "algos" / self.folder / "README.md"

    def tree(self, overrides: Sequence[str] = ()) -> Json:
        """Return the settings of a run without its seed, mode and folder.

        Raises:
            RowError: the configuration file doesn't exist.
        """
        if not self.path.is_file():
            shown = self.path.relative_to(record.ROOT)
            raise RowError(f"row {self.name}: {shown} doesn't exist, so {self.algorithm} can't run; add the file")
        tree = read_tree(str(self.path))
        apply_overrides(tree, [*self.settings, *overrides])
        return tree

    def gate(self) -> Json:
        """Return the row as results store it."""
        gate = {"name": self.name, "config": f"configs/{self.config}.yaml", "episodes": self.episodes}
        bounds = {"threshold": self.at_least, "at_most": self.at_most}
        gate |= {key: value for key, value in bounds.items() if value is not None}
        return gate | {"overrides": list(self.settings)}

    def required(self) -> str:
        """Return the requirement as text, "–" without one."""
        bounds = [
            f"{sign} {value:g}" for sign, value in (("≥", self.at_least), ("≤", self.at_most)) if value is not None
        ]
        return " and ".join(bounds) + (" (provisional)" if self.provisional else "") if bounds else "–"

    def verdict(self, mean: float, seeds: int) -> bool | None:
        """Return True if a mean over seeds meets the requirement, None without a requirement or with too few seeds."""
        if seeds < self.seeds or (self.at_least is None and self.at_most is None):
            return None
        low = self.at_least if self.at_least is not None else float("-inf")
        high = self.at_most if self.at_most is not None else float("inf")
        return low <= mean <= high


def load(path: Path = TABLE) -> dict[str, Row]:
    """Return the rows of a table by name.

    Raises:
        TypeError: a row has an unknown or misses a required field.
        KeyError: `init_from` names no earlier row.
    """
    table: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))["rows"]
    rows: dict[str, Row] = {}
    for name, fields in table.items():
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        if "init_from" in values:
            values["init_from"] = rows[values["init_from"]]
        rows[name] = Row(name, **values)
    return rows
