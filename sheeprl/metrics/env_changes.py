"""Values that callbacks set in the environments, and the rounds from which they hold."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any


class EnvChanges:
    """Changes of the environments of a run, in the order of their rounds.

    Args:
        changes: pairs of a round and the values that hold from it on.
    """

    def __init__(self, changes: Iterable[tuple[int, Mapping[str, Any]]] = ()) -> None:
        """Store the changes."""
        self._changes = [(first, dict(values)) for first, values in changes]

    def add(self, first_round: int, values: Mapping[str, Any]) -> None:
        """Add values that hold from a round on.

        Raises:
            ValueError: a value isn't a number, a text, a boolean or None, or a list or mapping of such values.
        """
        for name, value in values.items():
            if not _is_plain(value):
                raise ValueError(
                    f"set_env({name}={value!r}): must be a number, a text, a boolean or None, or a list or mapping of "
                    "these, so that a checkpoint can store it"
                )
        self._changes.append((first_round, json.loads(json.dumps(dict(values)))))
        self._changes.sort(key=lambda change: change[0])

    def at(self, round_number: int) -> dict[str, Any]:
        """Return the values that hold in a round."""
        return {
            name: value for first, values in self._changes if first <= round_number for name, value in values.items()
        }

    @property
    def newest(self) -> dict[str, Any]:
        """Return all values, including those of later rounds."""
        return {name: value for _, values in self._changes for name, value in values.items()}

    def merge_until(self, round_number: int) -> None:
        """Merge the changes that hold in a round, since no earlier round is collected again."""
        later = [change for change in self._changes if change[0] > round_number]
        if before := self.at(round_number):
            later.insert(0, (round_number, before))
        self._changes = later

    def forget_from(self, round_number: int) -> None:
        """Remove the changes that begin with a round or later."""
        self._changes = [change for change in self._changes if change[0] < round_number]

    @property
    def state(self) -> list[list[Any]]:
        """State as values that JSON can represent."""
        return [[first, dict(values)] for first, values in self._changes]


def _is_plain(value: Any) -> bool:
    """Return whether JSON stores a value without a change."""
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False
