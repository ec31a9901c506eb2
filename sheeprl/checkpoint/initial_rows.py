"""Begin a run with the stored rows of another run (`buffer.init_from`)."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sheeprl.checkpoint.best import named_checkpoint
from sheeprl.checkpoint.files import INITIAL_ROWS
from sheeprl.checkpoint.initial import origin_of, with_setting
from sheeprl.checkpoint.run_dir import read_config
from sheeprl.checkpoint.runs import is_stored
from sheeprl.checkpoint.spaces_file import SPACES
from sheeprl.checkpoint.start import read_start
from sheeprl.config.schema import Config
from sheeprl.config.suggestions import shown
from sheeprl.utils.errors import ConfigError, one_line

if TYPE_CHECKING:
    from sheeprl.envs.transforms import Spaces

Kinds = dict[str, tuple[tuple[int, ...], Any]]
"""Shape and dtype of an element of a row by key."""


@dataclass(frozen=True)
class InitialRows:
    """Rows of another run that a replay begins with.

    Args:
        origin: path or URL of the other run's checkpoint.
        folder: folder or URL of the saved replay.
        other_env: `env.id` and `env.kwargs` of the other run in one line, if they differ from those of this run.
    """

    origin: str
    folder: str
    other_env: str = ""


def find_rows(config: Config, spaces: Spaces) -> InitialRows | None:
    """Return the rows that `buffer.init_from` names, None without the setting.

    Raises:
        ConfigError: there is no such checkpoint, it has no rows, or its rows aren't those of the configured run.
    """
    given = config.buffer.init_from
    if given is None or not config.algo.data().is_off_policy:
        return None
    try:
        run_dir, checkpoint = named_checkpoint(given)
        found = read_start(checkpoint).buffer
        origin = origin_of(given, checkpoint)
        if found is None:
            raise ConfigError([f"{origin} has no rows; an off-policy run with buffer.checkpoint=true saves rows"])
        differences = _differences(_saved_kinds(found), _kinds_of(config, spaces))
        differences = differences or _other_actions(run_dir, spaces)
    except ConfigError as error:
        raise with_setting("buffer.init_from", given, error) from error
    except (OSError, ValueError) as error:  # such as a damaged checkpoint
        raise ConfigError([f"buffer.init_from={given}: {one_line(error)}"]) from error
    if differences:
        raise ConfigError([f"buffer.init_from={given}: its rows differ from those of this run: {differences}"])
    return InitialRows(origin, found, _other_env(config, checkpoint))


def keep_rows(rows: InitialRows, run_dir: Path) -> InitialRows:
    """Link the files of the saved replay into the folder of a run, which then doesn't need the other run.

    Rows at a URL stay there.

    Raises:
        OSError: a file can't be linked or copied. The new folder is removed.
    """
    kept = run_dir / INITIAL_ROWS
    if is_stored(rows.folder) or rows.folder == str(kept):
        return rows
    try:
        shutil.copytree(rows.folder, kept, copy_function=_link)
    except OSError:
        shutil.rmtree(kept, ignore_errors=True)
        raise
    return replace(rows, folder=str(kept))


def kept_rows(config: Config, run_dir: Path) -> InitialRows | None:
    """Return the rows that a run to resume has begun with, None without them."""
    kept = run_dir / INITIAL_ROWS
    return InitialRows(config.buffer.init_from or str(kept), str(kept)) if kept.is_dir() else None


def _link(source: str, target: str) -> None:
    """Link a file, or copy it to another file system."""
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copy2(source, target)


def _saved_kinds(folder: str) -> Kinds:
    """Return the kinds of the rows in a saved replay."""
    from sheeprl.buffer.memmap import dtype_of
    from sheeprl.buffer.places import count_shards, place_of
    from sheeprl.buffer.saving import read_index

    kinds: Kinds = {}
    for number in range(count_shards(folder)):
        for array in read_index(place_of(folder, number))["arrays"]:
            kind, _, key = array["name"].partition(" ")
            if kind == "row":
                kinds[key] = tuple(array["shape"][1:]), dtype_of(array["dtype"])
    return kinds


def _kinds_of(config: Config, spaces: Spaces) -> Kinds:
    """Return the kinds of the rows that players of a run collect, without a change of torch's random generator."""
    import torch

    from sheeprl.actors.warmup import dummy_rows
    from sheeprl.algos.build import build_algorithm
    from sheeprl.envs.transforms import newest_frames

    with torch.random.fork_rng(devices=()):
        rows = newest_frames(dummy_rows(config, build_algorithm(config.algo, spaces)), spaces.frame_stack)
    return {key: (values.shape[2:], values.dtype) for key, values in rows.items()}


def _other_actions(run_dir: Path, spaces: Spaces) -> str:
    """Return the action spaces in one line, if that of another run is known and differs; else an empty text."""
    from sheeprl.envs.space_json import to_json

    path = run_dir / SPACES
    if spaces.env_action is None or not path.is_file():
        return ""
    saved, expected = json.loads(path.read_text(encoding="utf-8"))["action"], to_json(spaces.env_action)
    return "" if saved == expected else f"the action space is {json.dumps(saved)}, not {json.dumps(expected)}"


def _other_env(config: Config, checkpoint: Path) -> str:
    """Return `env.id` and `env.kwargs` of a checkpoint in one line, if they differ from those of a run."""
    theirs, ours = read_config(checkpoint)["env"], config.to_tree()["env"]
    keys = ("id", "kwargs")
    if all(theirs.get(key) == ours[key] for key in keys):
        return ""
    return ", ".join(f"env.{key}={shown(theirs.get(key))}" for key in keys)


def _differences(saved: Kinds, expected: Kinds) -> str:
    """Return the keys that differ, in one line."""

    def shown(kind: tuple[tuple[int, ...], Any] | None) -> str:
        """Return a kind as text."""
        return "none" if kind is None else f"{kind[1]} {list(kind[0])}"

    keys = [key for key in expected | saved if saved.get(key) != expected.get(key)]
    return ", ".join(f"{key} is {shown(saved.get(key))}, not {shown(expected.get(key))}" for key in keys)
