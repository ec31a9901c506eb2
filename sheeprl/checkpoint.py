"""The run's folder and the checkpoints in it."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sheeprl.actors.handle import Handle
from sheeprl.algos.args import OffPolicy
from sheeprl.config import Config, ConfigError, apply_overrides, get_value, inspect, parse_yaml, structural_keys
from sheeprl.run import Counters

STATE = "state.json"  # written last: a folder without it is no checkpoint
CONFIG = "config.yaml"


def new_run_dir(config: Config) -> Path:
    """Where the run will be kept; nothing is made yet.

    Raises:
        ConfigError: the folder holds a run already.
    """
    if config.run.dir is not None:
        folder = base_folder() / config.run.dir
        if (folder / CONFIG).exists():
            raise ConfigError(
                [f"run.dir={config.run.dir}: holds a run already; `sheeprl resume {config.run.dir}` goes on with it"]
            )
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError([f"run.dir={config.run.dir}: exists and isn't an empty folder"])
        return folder
    algorithm, env = (name.replace("/", "_").replace(":", "_") for name in (config.algo.name, config.env.id))
    stem = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{config.run.seed}"
    folder = base_folder() / "logs" / algorithm / env / stem
    number = 1
    while folder.exists():
        number += 1
        folder = folder.with_name(f"{stem}_{number}")
    return folder


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
    found = [path for path in (run_dir / "checkpoints").glob("step_*") if (path / STATE).is_file()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))


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

    async def save(self, counters: Counters, learner: Handle, buffer: Handle) -> None:
        """Write a checkpoint beside the others, then give it its name, then remove the oldest."""
        partial = self.folder / f".step_{counters.policy_steps}.part"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        # Asked of the learner, because a learner that failed in the middle of an update knows better.
        counters.gradient_steps = await learner.call("save", str(partial))
        if self.keeps_buffer:
            await buffer.call("save", str(partial / "buffer"))
        state = {"algorithm": self.config.algo.name, "shards": self.shards, "counters": asdict(counters)}
        write_atomically(partial / STATE, json.dumps(state, indent=1))
        final = self.folder / f"step_{counters.policy_steps}"
        if final.exists():  # the same step once more, as when a finished run is resumed
            old = self.folder / f".{final.name}.old"
            shutil.rmtree(old, ignore_errors=True)
            final.rename(old)
            partial.rename(final)
            shutil.rmtree(old)
        else:
            partial.rename(final)
        for path in checkpoints(self.folder.parent)[: -self.config.checkpoint.keep_last]:
            await asyncio.to_thread(shutil.rmtree, path)


def check_fits(checkpoint: Path, config: Config, shards: int) -> None:
    """Whether a run as configured can go on from a checkpoint.

    Raises:
        ConfigError: it is of another algorithm, or its replay is in other parts.
    """
    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    mistakes = []
    if state["algorithm"] != config.algo.name:
        mistakes.append(f"algo.name={config.algo.name}: {checkpoint} is a checkpoint of {state['algorithm']}")
    if (checkpoint / "buffer").is_dir() and state["shards"] != shards:
        mistakes.append(
            f"trainer.devices={shards}: in coupled mode every rank has its part of the replay, and "
            f"{checkpoint} has {state['shards']} parts; use run.mode and trainer.devices as before"
        )
    if mistakes:
        raise ConfigError(mistakes)


def read_counters(checkpoint: Path) -> Counters:
    """The counters of a checkpoint."""
    state: dict[str, Any] = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    return Counters(**state["counters"])


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
FIXED = ("algo.name", "env.id", "env.kwargs", "env.wrappers", "run.seed", "run.dir", "run.resume", "buffer.size")


def resume_tree(run_dir: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The raw tree with which a run goes on.

    Raises:
        ConfigError: no run or checkpoint is there, or an override changes what a resumed run can't change.
    """
    folder, _ = find_checkpoint(run_dir)
    tree = read_config(folder)
    before = copy.deepcopy(tree)
    apply_overrides(tree, overrides)
    config, _ = inspect(before)
    fixed = {*FIXED, *structural_keys(type(config))} if config else set(FIXED)
    changed = [key for key in (override.partition("=")[0] for override in overrides) if key in fixed]
    if changed := [key for key in changed if get_value(tree, key) != get_value(before, key)]:
        raise ConfigError(
            [f"{key}: can't change in a resumed run; it is {get_value(before, key)!r}" for key in changed]
        )
    tree.setdefault("run", {}).update(dir=str(folder), resume=True)
    return tree
