"""Find the checkpoint that a name means: the newest or the best one of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sheeprl.callbacks.records import mean_returns
from sheeprl.checkpoint import manifest
from sheeprl.checkpoint.files import step_of
from sheeprl.checkpoint.run_dir import NO_CHECKPOINT, checkpoints, find_checkpoint, read_config
from sheeprl.checkpoint.runs import is_stored, resolve_run
from sheeprl.config.loading import get_value
from sheeprl.config.schema import EVAL_RETURN
from sheeprl.utils.errors import ConfigError


def named_checkpoint(name: str, best: bool = False) -> tuple[Path, Path]:
    """Return the folder of a run and its checkpoint.

    Args:
        name: a run (its folder, `@last`, a prefix of its name, or its URL at `checkpoint.storage`), or a checkpoint.
        best: True for the best checkpoint of the run, False for the newest one, or for the one that is named.

    Raises:
        ConfigError: there is no such run or checkpoint, or it can't be read.
    """
    name = resolve_run(name)
    if is_stored(name):
        from sheeprl.checkpoint.run_copies import copy_checkpoint

        name = str(copy_checkpoint(name, every=best))
    run_dir, checkpoint = find_checkpoint(name)
    return run_dir, best_checkpoint(run_dir) if best else checkpoint


def best_checkpoint(run_dir: Path) -> Path:
    """Return the checkpoint with the best score by the run's `checkpoint.best_by`; the newest one without scores.

    Raises:
        ConfigError: the run has no checkpoint.
    """
    found = checkpoints(run_dir)
    if not found:
        raise ConfigError([f"{run_dir}: contains no complete checkpoint; {NO_CHECKPOINT}"])
    by = str(get_value(read_config(run_dir), "checkpoint.best_by"))
    return (by_score(found, run_dir, by) or found)[-1]


def by_score(found: Sequence[Path], run_dir: Path, by: str) -> list[Path]:
    """Return the checkpoints that have a score, the best one last; of equal ones, the newest one last.

    Args:
        found: the checkpoints, the oldest first.
        run_dir: folder of the run.
        by: `episode/return` or `eval/return`.
    """
    evaluations = mean_returns(run_dir) if by == EVAL_RETURN else {}
    scores = {path: _evaluated(path, evaluations) if by == EVAL_RETURN else _trained(path) for path in found}
    scored = [(score, path) for path, score in scores.items() if score is not None]
    return [path for _, path in sorted(scored, key=lambda pair: (pair[0], step_of(pair[1])))]


def _trained(checkpoint: Path) -> float | None:
    """Return the mean return of training episodes at the time of a checkpoint, None if unknown."""
    try:
        score: float | None = manifest.read(checkpoint).about["mean_return"]
    except manifest.DamagedCheckpointError:
        return None
    return score


def _evaluated(checkpoint: Path, evaluations: dict[int, float]) -> float | None:
    """Return the mean return of the newest evaluation at or before a checkpoint, None without one."""
    steps = [step for step in evaluations if step <= step_of(checkpoint)]
    return evaluations[max(steps)] if steps else None
