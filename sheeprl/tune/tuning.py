"""Run a search with Ray Tune."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from sheeprl.config.defaults import cluster_address, fill_in
from sheeprl.config.loading import get_value, validate
from sheeprl.series import check_folder
from sheeprl.tune.search import Search, Trial, first_settings, fits, ranked
from sheeprl.tune.space import Choices, shown
from sheeprl.tune.trial import run_trial
from sheeprl.utils.errors import one_line

T = TypeVar("T")
SCORE, STEPS = "score", "policy_steps"
TRIALS = "trials"  # folder of the trials' runs
REDUCTION = 3  # of three trials, one goes on


def tune(search: Search, say: Callable[[str], None] = print) -> list[Trial]:
    """Run a search, or continue it, and return its trials, the best one first.

    Args:
        search: the search.
        say: called with a line for each trial that ends.

    Raises:
        ConfigError: the folder has another search.
        RunFailedError: Ray can't be started.
    """
    kind = {"seeds": search.seeds, "trials": search.trials, "budget": search.budget, "pruning": search.prune}
    return run_on_ray(search, kind, lambda: _fit(search, say))


def run_on_ray(search: Search, kind: Mapping[str, float | None], fit: Callable[[], T]) -> T:
    """Return the result of a function that runs Ray Tune, after checks, on a Ray that is joined or started.

    Args:
        search: the search.
        kind: other options that tell searches in one folder apart; Ray Tune continues with those of the first call.
        fit: the function.

    Raises:
        ConfigError: the folder has another search.
        RunFailedError: Ray can't be started.
    """
    from sheeprl.actors.ray import environment
    from sheeprl.actors.ray.tasks import start_ray

    about = {"space": {key: str(part) for key, part in search.space.items()}, "metric": search.metric, **kind}
    check_folder(search.folder / "search.json", about | search.tree)
    config = fill_in(validate(search.tree))
    began = start_ray(cluster_address(config), environment.source(config))
    import ray

    try:
        return fit()
    finally:
        if began:
            ray.shutdown()


def configure() -> None:
    """Set the variables that Ray Tune reads when it is imported, so that it prints and writes less."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="Consider boosting PBT performance")  # by what functions can't do


def restored(search: Search, trainable: Any, say: Callable[[str], None]) -> Any:
    """Return Ray Tune's state of an earlier call, None if there is none."""
    from ray import tune as ray_tune

    path = str(search.folder / "ray" / "tune")
    if not ray_tune.Tuner.can_restore(path):
        return None
    say(f"continuing the search in {search.folder}")
    return ray_tune.Tuner.restore(path, trainable, resume_unfinished=True, restart_errored=True)


def _fit(search: Search, say: Callable[[str], None]) -> list[Trial]:
    """Run Ray Tune, and return the trials."""
    configure()
    from ray import tune as ray_tune

    trainable = ray_tune.with_resources(_trainable(search), {"cpu": search.cpus})
    tuner = restored(search, trainable, say)
    if tuner is None:
        tuner = ray_tune.Tuner(
            trainable,
            tune_config=ray_tune.TuneConfig(
                search_alg=_optuna(search),
                scheduler=_scheduler(search),
                num_samples=search.trials or -1,
                time_budget_s=search.budget,
                max_concurrent_trials=search.jobs,
            ),
            run_config=ray_tune.RunConfig(
                name="tune", storage_path=str(search.folder / "ray"), verbose=0, callbacks=[_progress(say)]
            ),
        )
    found = tuner.fit()
    return ranked([_trial(search, found[number]) for number in range(len(found))])


def _trainable(search: Search) -> Callable[[dict[str, Any]], None]:
    """Return the function that Ray Tune calls with the values of a trial."""

    def trial(config: dict[str, Any]) -> None:
        """Train a trial, and report to Ray Tune."""
        from ray import tune as ray_tune

        sys.argv = list(search.command)
        folder = search.folder / TRIALS / str(ray_tune.get_context().get_trial_id())
        run_trial(search, config, folder, lambda score, steps: ray_tune.report({SCORE: score, STEPS: steps}))

    return trial


def _optuna(search: Search) -> Any:
    """Return Optuna's search over the space; its first trial has the given settings."""
    import optuna

    from sheeprl.tune.suggestions import FittingSuggestions

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space: dict[str, Any] = {}
    for key, part in search.space.items():
        if isinstance(part, Choices):
            space[key] = optuna.distributions.CategoricalDistribution(part.texts)
        elif part.whole:
            space[key] = optuna.distributions.IntDistribution(int(part.low), int(part.high))
        else:
            space[key] = optuna.distributions.FloatDistribution(part.low, part.high, log=part.log)
    return FittingSuggestions(
        partial(fits, search),
        space=space,
        metric=SCORE,
        mode="max",
        points_to_evaluate=[first_settings(search)],
        seed=int(get_value(search.tree, "run.seed") or 0),
    )


def _scheduler(search: Search) -> Any:
    """Return the scheduler that ends bad trials early, by policy steps."""
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if not search.prune:
        return FIFOScheduler()
    one_run = search.most_steps // search.seeds
    return ASHAScheduler(
        time_attr=STEPS,
        metric=SCORE,
        mode="max",
        max_t=search.most_steps,
        grace_period=max(1, one_run // REDUCTION),
        reduction_factor=REDUCTION,
    )


def _progress(say: Callable[[str], None]) -> Any:
    """Return a callback of Ray Tune that prints a line for each trial that ends."""
    from ray.tune import Callback as TuneCallback

    class Progress(TuneCallback):
        """Prints a line per trial."""

        ended = 0

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            """Print the score of a trial."""
            self.ended += 1
            result = trial.last_result or {}
            score = f"{result[SCORE]:.2f}" if SCORE in result else "no score"
            label = ", ".join(f"{key}={shown(value)}" for key, value in trial.config.items())
            say(f"{self.ended}  {score} after {result.get(STEPS, 0):,} policy steps: {label}")

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            """Print the failure of a trial."""
            self.ended += 1
            say(f"{self.ended}  failed: {', '.join(f'{key}={shown(value)}' for key, value in trial.config.items())}")

    return Progress()


def _trial(search: Search, result: Any) -> Trial:
    """Return the trial of a result of Ray Tune."""
    metrics = result.metrics or {}
    steps, settings = int(metrics.get(STEPS, 0)), dict(result.config or {})
    folder = f"{TRIALS}/{metrics['trial_id']}" if "trial_id" in metrics else ""
    if result.error is not None:
        cause = one_line(getattr(result.error, "cause", None) or result.error)
        return Trial(settings, None, steps, "failed", cause, folder)
    status = "done" if steps >= search.most_steps else "pruned" if metrics.get("done") else "unfinished"
    return Trial(settings, metrics.get(SCORE), steps, status, folder=folder)
