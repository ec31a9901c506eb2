"""Read checkpoints and resume runs from them."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sheeprl.algos.args import OffPolicy, OnPolicy
from sheeprl.checkpoint import manifest
from sheeprl.checkpoint.files import AGENT, CONFIG, STATE
from sheeprl.checkpoint.remote import mirror_of
from sheeprl.checkpoint.run_dir import (
    checkpoints,
    find_checkpoint,
    make_run_dir,
    named_folder,
    read_config,
    replay_folder,
)
from sheeprl.config.loading import apply_overrides, get_value, inspect
from sheeprl.config.schema import Config, structural_keys
from sheeprl.driver.players import PlayerState
from sheeprl.metrics.counters import Counters
from sheeprl.metrics.time_breakdown import StartupTimer
from sheeprl.utils.errors import ConfigError, one_line


@dataclass(frozen=True)
class RunDir:
    """Where the run is kept.

    Args:
        run_dir: its folder.
        start: what to go on from, if anything.
        shards: parts of the replay; in coupled mode every rank has one.
        startup: what starting it takes.
    """

    run_dir: Path
    start: Start | None
    shards: int = 1
    startup: StartupTimer = field(default_factory=StartupTimer)


def open_run_dir(config: Config, startup: StartupTimer, shards: int, say: Callable[[str], None]) -> RunDir:
    """Where the run is kept, its folder made, and what it goes on from.

    Args:
        config: the run's configuration, resolved.
        startup: what starting it takes.
        shards: parts of the replay.
        say: tells of checkpoints that are passed over.

    Raises:
        ConfigError: the folder holds another run, or a checkpoint that doesn't fit.
    """
    if config.run.resume and config.run.dir is None:
        raise ConfigError(["run.resume=true: needs run.dir, the folder of the run to go on with"])
    if config.run.resume:
        folder = named_folder(str(config.run.dir))
        if start := newest_start(folder, config, say):
            check_fits(start, config)
            return RunDir(folder.resolve(), start, shards, startup)
    return RunDir(make_run_dir(config).resolve(), None, shards, startup)


def first_incarnations(config: Config, place: RunDir) -> list[int]:
    """Which incarnation each player starts as: the one whose state it takes over, or one that hasn't played yet."""
    start = place.start
    played: list[int] = start.stats["counters"]["incarnations"] if start else []
    kept = start.players(config) if start else {}
    return [
        kept[number].incarnation if number in kept else (played[number] if number < len(played) else -1) + 1
        for number in range(config.players.num or 1)
    ]


def clear_other_layout(config: Config, place: RunDir) -> None:
    """Remove mapped files that are cut up otherwise than the run is now; the checkpoint has all that is in them.

    Raises:
        ConfigError: it hasn't.
    """
    folder = replay_folder(config, place.run_dir)
    if folder is None or place.start is None or not Path(folder).is_dir():
        return
    from sheeprl.buffer.memmap import capacity_of

    assert config.buffer.size is not None
    found = {path.name: capacity_of(path) for path in Path(folder).glob("shard_*")}
    wanted = {f"shard_{number}": config.buffer.size // place.shards for number in range(place.shards)}
    if not found or found == wanted:
        return
    if place.start.buffer is None:
        raise ConfigError(
            [
                f"buffer: {folder} has {len(found)} shards of {max(found.values())} rows, and no checkpoint of them; "
                "go on with as many of that size"
            ]
        )
    shutil.rmtree(folder)


@dataclass(frozen=True)
class Start:
    """What a resumed run goes on from.

    Args:
        checkpoint: its folder.
        algorithm: whose it is.
        shards: parts that its replay is in.
        books: the run's.
        metrics_size: bytes that the file of metrics had.
        incarnations: of the players whose state it holds, by number.
    """

    checkpoint: Path
    algorithm: str
    shards: int
    stats: dict[str, Any]
    metrics_size: int
    incarnations: dict[int, int]

    @property
    def buffer(self) -> str | None:
        """The replay, if it is kept."""
        folder = self.checkpoint / "buffer"
        return str(folder) if folder.is_dir() else None

    def agent(self) -> bytes:
        """The learner's snapshot."""
        return (self.checkpoint / AGENT).read_bytes()

    def players(self, config: Config) -> dict[int, PlayerState]:
        """What the players held, as far as it fits the run; by number.

        A player's state goes with the rows that it has brought: where these aren't restored it begins anew.
        """
        if isinstance(config.algo.data(), OffPolicy) and self.buffer is None:
            return {}
        return {
            number: PlayerState(incarnation, (self.checkpoint / f"player_{number}.pt").read_bytes())
            for number, incarnation in self.incarnations.items()
            if number < (config.players.num or 1)
        }


def read_start(checkpoint: Path) -> Start:
    """What a checkpoint says of itself.

    Raises:
        DamagedCheckpointError: it isn't as it was written.
    """
    path = checkpoint / STATE
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        Counters(**state["books"]["counters"])
        incarnations = {int(number): int(life) for number, life in state["players"].items()}
        shards, size = int(state["shards"]), int(state["metrics_size"])
        return Start(checkpoint, state["algorithm"], shards, state["books"], size, incarnations)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise manifest.DamagedCheckpointError(path, f"is damaged: {one_line(error)}") from error


def newest_start(run_dir: Path, config: Config, say: Callable[[str], None]) -> Start | None:
    """The newest checkpoint that is as it was written; of each newer one, which file is not is said.

    Raises:
        ConfigError: there are checkpoints, and all are damaged.
    """
    damaged: list[str] = []
    for path in reversed(checkpoints(run_dir)):
        if start := _start_unless_damaged(path, damaged):
            return start
        say(f"warning: {path.name} is left out: {damaged[-1]}")
    if (mirror := mirror_of(config, run_dir)) and (names := mirror.names()):
        say(f"fetching {names[-1]} from {config.checkpoint.mirror}")
        fetched = mirror.download(names[-1], run_dir / "checkpoints")
        return read_start(fetched)
    if damaged:
        raise ConfigError([f"run.dir={run_dir}: holds no whole checkpoint: {reason}" for reason in damaged])
    return None


def _start_unless_damaged(path: Path, damaged: list[str]) -> Start | None:
    """What a checkpoint says of itself; None, and why in `damaged`, if it isn't as it was written."""
    try:
        manifest.verify(path)
        return read_start(path)
    except manifest.DamagedCheckpointError as error:
        damaged.append(str(error))
        return None


def check_fits(start: Start, config: Config) -> None:
    """Whether a run as configured can go on from a checkpoint.

    Raises:
        ConfigError: it is of another algorithm.
    """
    if start.algorithm != config.algo.name:
        raise ConfigError(
            [f"algo.name={config.algo.name}: {start.checkpoint} is a checkpoint of {start.algorithm}; use that"]
        )


def read_counters(checkpoint: Path) -> Counters:
    """The counters of a checkpoint.

    Raises:
        ConfigError: the file is damaged.
    """
    try:
        return Counters(**read_start(checkpoint).stats["counters"])
    except manifest.DamagedCheckpointError as error:
        raise ConfigError([str(error)]) from error


# What a resumed run can't change, besides what an algorithm's arguments say of themselves: it is what was learned on.
FIXED = (
    *("algo.name", "env.id", "env.kwargs", "env.wrappers"),
    *("run.seed", "run.dir", "run.resume", "buffer.size"),
)


def fetch_run(url: str, overrides: Sequence[str] = ()) -> Path:
    """Make a run's folder of the newest checkpoint that a mirror holds of it.

    Args:
        url: the run's folder in the mirror.
        overrides: of the settings, of which `run.dir` says where to.

    Raises:
        ConfigError: there is none, or the folder is in use.
    """
    from sheeprl.checkpoint.remote import Mirror

    tree: dict[str, Any] = {}
    apply_overrides(tree, overrides)
    named = get_value(tree, "run.dir")
    folder = named_folder(str(named) if named else f"logs/{url.rstrip('/').rpartition('/')[2]}")
    if (folder / CONFIG).exists():
        raise ConfigError([f"{folder}: holds a run already; sheeprl resume {folder} goes on with it, or give run.dir"])
    try:
        mirror = Mirror(url)
        if not (names := mirror.names()):
            raise ConfigError([f"{url}: holds no whole checkpoint"])
        fetched = mirror.download(names[-1], folder / "checkpoints")
    except (OSError, ValueError) as error:
        raise ConfigError([f"{url}: {one_line(error)}"]) from error
    shutil.copy(fetched / CONFIG, folder / CONFIG)
    return folder


def resume_tree(run_dir: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The raw tree with which a run goes on.

    Args:
        run_dir: its folder, or its address in a mirror.
        overrides: `group.key=value`.

    Raises:
        ConfigError: no run or checkpoint is there, or an override changes what a resumed run can't change.
    """
    if "://" in run_dir:
        run_dir = str(fetch_run(run_dir, overrides))
        overrides = [override for override in overrides if not override.startswith("run.dir=")]
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
