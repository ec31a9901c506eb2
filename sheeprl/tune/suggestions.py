"""Optuna's suggestions for Ray Tune, without values that don't fit together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.search.optuna import OptunaSearch

MOST_DRAWS = 100  # for one trial


class FittingSuggestions(OptunaSearch):
    """Optuna's search, which draws again if a configuration of the drawn values isn't valid.

    Ranges of single settings permit combinations that no run accepts, such as minibatches larger than a rollout. Such a
    draw isn't a trial.

    Args:
        fits: returns True if values by key make a valid configuration.
        **options: arguments of Ray Tune's `OptunaSearch`.
    """

    def __init__(self, fits: Callable[[dict[str, Any]], bool] = lambda values: True, **options: Any) -> None:
        """Store the check."""
        super().__init__(**options)
        self.fits = fits
        self._draws: dict[str, str] = {}  # accepted draw of each trial

    def suggest(self, trial_id: str) -> Any:
        """Return the values of a trial; after many draws that don't fit, the last one, whose run tells the reason."""
        for number in range(MOST_DRAWS):
            if number:
                self.on_trial_complete(trial_id, error=True)  # the draw before
            self._draws[trial_id] = f"{trial_id} {number}"
            values = super().suggest(self._draws[trial_id])
            if values is None or self.fits(values):
                break
        return values

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass a score to the accepted draw of a trial."""
        super().on_trial_result(self._draws[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """End the accepted draw of a trial."""
        super().on_trial_complete(self._draws[trial_id], result, error)
