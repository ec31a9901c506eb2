"""Runs of a series, such as those of a sweep or a search: their common folder, and the training of one run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sheeprl.checkpoint.resume import resume_tree
from sheeprl.checkpoint.run_dir import checkpoints, is_locked_still
from sheeprl.checkpoint.runs import is_done, last_event
from sheeprl.config.loading import get_value
from sheeprl.config.schema import Tree
from sheeprl.config.suggestions import shown
from sheeprl.utils.errors import ConfigError, RunFailedError

if TYPE_CHECKING:
    from sheeprl.callbacks.base import Callback
    from sheeprl.session import Result


def check_folder(path: Path, about: Mapping[str, Any]) -> None:
    """Write what the runs of a series have in common, or compare it with an earlier call in the same folder.

    Args:
        path: the file, in the folder of the series.
        about: settings and nested settings.

    Raises:
        ConfigError: the earlier call had others.
    """
    text = json.dumps(about, indent=1, default=str)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return
    before, now = _flat(json.loads(path.read_bytes())), _flat(json.loads(text))
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed:
        raise ConfigError(
            [
                f"{path.parent}: has runs with {_setting(key, before)}, not {_setting(key, now)}; use the same value, "
                "or name another folder with --out"
                for key in changed
            ]
        )


def _setting(key: str, values: Mapping[str, Any]) -> str:
    """Return a setting as key=value, or that it has no value."""
    return f"{key}={shown(values[key])}" if values.get(key) is not None else f"no {key}"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted key."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def is_finished(tree: Tree, folder: Path) -> bool:
    """Return whether an earlier call has finished a run."""
    total = get_value(tree, "run.total_steps")
    return is_done(last_event(folder), total if isinstance(total, int) else None)


def train_or_resume(tree: Tree, folder: Path, callbacks: Sequence[Callback] = ()) -> Result:
    """Train a run in this process, or resume it from its newest checkpoint.

    Args:
        tree: settings of the run.
        folder: its folder.
        callbacks: callbacks besides those of `run.callbacks`.

    Raises:
        ConfigError: the settings have mistakes, or don't fit the environment or the machine.
        RunFailedError: the run failed, or another process uses its folder.
    """
    from sheeprl.launch import train_tree

    if is_locked_still(folder):
        raise RunFailedError(f"another process is using {folder}")
    if checkpoints(folder):
        total = get_value(tree, "run.total_steps")
        tree = resume_tree(str(folder), [] if total is None else [f"run.total_steps={total}"])
    elif folder.exists():  # it was interrupted before its first checkpoint
        shutil.rmtree(folder)
    tree.setdefault("log", {})["level"] = "error"
    return train_tree(tree, callbacks)
