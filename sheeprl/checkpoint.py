"""The run's folder and the checkpoints in it."""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sheeprl.actors.handle import Handle
from sheeprl.actors.shards import Shards
from sheeprl.algos.args import OffPolicy, OnPolicy
from sheeprl.config import Config, ConfigError, apply_overrides, get_value, inspect, parse_yaml, structural_keys
from sheeprl.run import Counters

STATE = "state.json"  # written last: a folder without it is no checkpoint
CONFIG = "config.yaml"


def make_run_dir(config: Config) -> Path:
    """Make the folder of a new run; two runs never get the same.

    Raises:
        ConfigError: the folder that was asked for holds a run already, or can't be made.
    """
    named = config.run.dir
    algorithm, env = (re.sub(r"[^\w.-]", "_", name) for name in (config.algo.name, config.env.id))
    stem = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{config.run.seed}"
    folder = base_folder() / "logs" / algorithm / env / stem if named is None else named_folder(named)
    if named is not None and (folder / CONFIG).exists():
        raise ConfigError([f"run.dir={named}: holds a run already; `sheeprl resume {named}` goes on with it"])
    if named is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError([f"run.dir={named}: exists and isn't an empty folder"])
    try:
        if named is not None:
            folder.mkdir(parents=True, exist_ok=True)
        else:
            folder = _make_numbered(folder)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} can't be written to")
    except OSError as error:
        raise ConfigError([f"run.dir={named or folder}: can't be made: {error}"]) from error
    return folder


def _make_numbered(folder: Path) -> Path:
    """Make a folder; with a number behind its name, if another run of the same second has it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        with suppress(FileExistsError):
            candidate.mkdir()
            break
    return candidate


def named_folder(name: str) -> Path:
    """The folder that `run.dir` names."""
    return base_folder() / Path(name).expanduser()


def base_folder() -> Path:
    """What relative run folders are relative to: inside a Ray job the working folder is a copy that goes away."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return Path(os.environ.get("SHEEPRL_HOME", "~/sheeprl")).expanduser()
    return Path.cwd()


def write_atomically(path: Path, text: str) -> None:
    """Replace a file by one that is whole at every moment."""
    partial = path.with_name(f".{path.name}.part")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def checkpoints(run_dir: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    folders = (run_dir / "checkpoints").glob("step_*")
    found = [path for path in folders if path.name[5:].isdigit() and (path / STATE).is_file()]
    return sorted(found, key=lambda path: int(path.name[5:]))


class CheckpointKeeper:
    """Writes checkpoints of a run and removes old ones.

    Args:
        run_dir: the run's folder.
        config: what to keep, and for how long.
        shards: parts of the replay.
    """

    def __init__(self, run_dir: Path, config: Config, shards: int = 1) -> None:
        self.folder = run_dir / "checkpoints"
        self.config = config
        self.shards = shards
        # Between rounds, when checkpoints are written, a rollout has been used up.
        self.keeps_buffer = config.buffer.checkpoint and isinstance(config.algo.data(), OffPolicy)
        self._clear_remains()

    def _clear_remains(self) -> None:
        """Remove what a killed run had begun to write; put back what it was replacing."""
        for partial in self.folder.glob(".step_*.part"):
            shutil.rmtree(partial)
        for old in self.folder.glob(".step_*.old"):
            final = self.folder / old.name[1:-4]
            if final.exists():
                shutil.rmtree(old)
            else:
                old.rename(final)

    async def save(self, counters: Counters, learner: Handle, replay: Shards) -> None:
        """Write a checkpoint beside the others, then give it its name, then remove the oldest."""
        partial = self.folder / f".step_{counters.policy_steps}.part"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            await self._write(partial, counters, learner, replay)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self._replace(self.folder / f"step_{counters.policy_steps}", partial)
        for path in checkpoints(self.folder.parent)[: -self.config.checkpoint.keep_last]:
            await asyncio.to_thread(shutil.rmtree, path)

    async def _write(self, folder: Path, counters: Counters, learner: Handle, replay: Shards) -> None:
        """Fill a folder, what says that it is whole last."""
        # Asked of the learner, because a learner that failed in the middle of an update knows better.
        counters.gradient_steps = await learner.call("save", str(folder))
        if self.keeps_buffer:
            await replay.save(str(folder / "buffer"))
        state = {"algorithm": self.config.algo.name, "shards": self.shards, "counters": asdict(counters)}
        write_atomically(folder / STATE, json.dumps(state, indent=1))

    def _replace(self, final: Path, partial: Path) -> None:
        """Give a whole checkpoint its name, which another may have, as when a finished run is resumed."""
        old = self.folder / f".{final.name}.old"
        if final.exists():
            final.rename(old)
        partial.rename(final)
        shutil.rmtree(old, ignore_errors=True)


def check_fits(checkpoint: Path, config: Config, shards: int) -> None:
    """Whether a run as configured can go on from a checkpoint.

    Raises:
        ConfigError: it is of another algorithm, or its replay is in other parts.
    """
    state = read_state(checkpoint)
    mistakes = []
    if state["algorithm"] != config.algo.name:
        mistakes.append(f"algo.name={config.algo.name}: {checkpoint} is a checkpoint of {state['algorithm']}")
    if (checkpoint / "buffer").is_dir() and state["shards"] != shards:
        mistakes.append(
            f"{'trainer.devices' if config.run.mode == 'coupled' else 'buffer.shards'}={shards}: the replay of "
            f"{checkpoint} is in {state['shards']} parts (in coupled mode every rank has one); use run.mode, "
            "trainer.devices and buffer.shards as before"
        )
    if mistakes:
        raise ConfigError(mistakes)


def read_counters(checkpoint: Path) -> Counters:
    """The counters of a checkpoint."""
    return Counters(**read_state(checkpoint)["counters"])


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises:
        ConfigError: the file is damaged.
    """
    path = checkpoint / STATE
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        Counters(**state["counters"])
        return {"algorithm": state["algorithm"], "shards": int(state["shards"]), "counters": state["counters"]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError([f"{path}: is damaged; move {checkpoint.name} away to use the one before"]) from error


def find_checkpoint(path: str) -> tuple[Path, Path]:
    """The run folder and the checkpoint that a user means by a run's folder or a checkpoint's.

    Raises:
        ConfigError: neither is there.
    """
    folder = Path(path).expanduser().resolve()
    if not folder.exists():
        raise ConfigError([f"{path}: no such folder"])
    if (folder / STATE).is_file():
        return folder.parent.parent, folder
    if not (folder / CONFIG).is_file():
        raise ConfigError([f"{path}: is neither a run's folder (no {CONFIG}) nor a checkpoint (no {STATE})"])
    found = checkpoints(folder)
    if not found:
        raise ConfigError([f"{path}: holds no whole checkpoint"])
    return folder, found[-1]


def read_config(run_dir: Path) -> dict[str, Any]:
    """The raw tree of a run's configuration.

    Raises:
        ConfigError: it can't be read.
    """
    path = run_dir / CONFIG
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error}"]) from error
    if not isinstance(tree, dict):
        raise ConfigError([f"{path}: is not a configuration"])
    return tree


# What a resumed run can't change, besides what an algorithm's arguments say of themselves: it is what was learned on.
FIXED = (
    *("algo.name", "env.id", "env.kwargs", "env.wrappers"),
    *("run.seed", "run.dir", "run.resume", "buffer.size", "buffer.shards"),
)


def resume_tree(run_dir: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The raw tree with which a run goes on.

    Raises:
        ConfigError: no run or checkpoint is there, or an override changes what a resumed run can't change.
    """
    folder, checkpoint = find_checkpoint(run_dir)
    if Path(run_dir).expanduser().resolve() == checkpoint:
        raise ConfigError([f"{run_dir}: is a checkpoint; a run goes on from its newest one: sheeprl resume {folder}"])
    tree = read_config(folder)
    before = copy.deepcopy(tree)
    apply_overrides(tree, overrides)
    config, _ = inspect(before)
    fixed = {*FIXED, *structural_keys(type(config))} if config else set(FIXED)
    if config and isinstance(config.algo.data(), OnPolicy):
        fixed.remove("buffer.size")  # follows from the size of a rollout
    changed = [key for key in (override.partition("=")[0] for override in overrides) if key in fixed]
    if changed := [key for key in changed if get_value(tree, key) != get_value(before, key)]:
        raise ConfigError(
            [f"{key}: can't change in a resumed run; it is {get_value(before, key)!r}" for key in changed]
        )
    tree.setdefault("run", {}).update(dir=str(folder), resume=True)
    return tree
