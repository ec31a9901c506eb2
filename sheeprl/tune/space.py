"""Ranges of settings: those that an algorithm declares, and those on the command line."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sheeprl.config.defaults import fill_in
from sheeprl.config.loading import apply_overrides, inspect, validate
from sheeprl.config.schema import Tree
from sheeprl.sweep import values_of
from sheeprl.utils.errors import ConfigError

if TYPE_CHECKING:
    from sheeprl.envs.transforms import Spaces

RANGE = re.compile(r"(log|uniform|int)\(([^,()]+),([^,()]+)\)")
EXAMPLE = "algo.learning_rate=log(1e-5,1e-2)"


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds.

    Args:
        low: least value.
        high: largest value.
        log: True to draw the logarithm uniformly.
        whole: True for whole numbers.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __str__(self) -> str:
        """Return the range as on the command line."""
        return f"{'int' if self.whole else 'log' if self.log else 'uniform'}({self.low:g},{self.high:g})"

    def nearest(self, value: Any) -> Any:
        """Return the nearest value of the range."""
        bounded = min(max(float(value), self.low), self.high)
        return round(bounded) if self.whole else bounded


@dataclass(frozen=True)
class Choices:
    """Some values, each as the text of a setting."""

    texts: tuple[str, ...]

    def __str__(self) -> str:
        """Return the values as on the command line."""
        return ",".join(self.texts)


Space = dict[str, Range | Choices]


def shown(value: Any) -> str:
    """Return a value of a setting with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def parse_range(key: str, text: str) -> Range | Choices | None:
    """Return the range or the values in the text of a setting; None for a single value.

    Raises:
        ConfigError: the range is empty, or its bounds aren't numbers.
    """
    if match := RANGE.fullmatch(text.replace(" ", "")):
        kind, *bounds = match.groups()
        try:
            low, high = (float(bound) for bound in bounds)
        except ValueError:
            raise ConfigError([f"{key}={text}: the bounds must be numbers, as in {EXAMPLE}"]) from None
        if not low < high or not math.isfinite(high - low):
            raise ConfigError([f"{key}={text}: the first bound must be less than the second one"])
        if kind == "log" and low <= 0:
            raise ConfigError([f"{key}={text}: the bounds of a logarithm must be positive"])
        if kind == "int" and not (low.is_integer() and high.is_integer()):
            raise ConfigError([f"{key}={text}: the bounds must be whole numbers"])
        return Range(low, high, kind == "log", kind == "int")
    values = values_of(text)
    return Choices(tuple(values)) if len(values) > 1 else None


def declared_space(tree: Tree) -> Space:
    """Return the ranges that the arguments of the algorithm declare, without those that have no effect.

    Args:
        tree: settings of the run.

    Raises:
        ConfigError: the settings have mistakes.
    """
    from sheeprl.config.checks import check

    spaces = check(tree).spaces
    config = validate(tree)
    found: Space = {}
    for name, field in type(config.algo).model_fields.items():
        extra: Any = field.json_schema_extra
        declared = extra.get("search") if isinstance(extra, dict) else None
        if declared is None or getattr(config.algo, name) is None:
            continue
        if "choices" in declared:
            default = json.dumps(getattr(config.algo, name))
            texts = [json.dumps(choice) for choice in declared["choices"]]
            candidate: Range | Choices = Choices(tuple(texts if default in texts else [default, *texts]))
        else:
            candidate = Range(**declared)
        if _has_effect(tree, f"algo.{name}", candidate, spaces):
            found[f"algo.{name}"] = candidate
    return found


def _has_effect(tree: Tree, key: str, candidate: Range | Choices, spaces: Spaces) -> bool:
    """Return whether another value of a setting is accepted beside the other settings, and changes the run."""
    from sheeprl.config.effects import without_effect

    for value in [candidate.low, candidate.high] if isinstance(candidate, Range) else candidate.texts:
        trial: Tree = json.loads(json.dumps(tree))
        apply_overrides(trial, [f"{key}={value}"])
        config, mistakes = inspect(trial)
        if config is None or mistakes:
            continue
        if any(line.startswith(f"{key}=") for line in without_effect(config, fill_in(config), spaces)):
            return False
        if config != inspect(tree)[0]:
            return True
    return False
