"""Read checkpoints and resume runs from them."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sheeprl.callbacks.records import EPISODES
from sheeprl.checkpoint import manifest
from sheeprl.checkpoint.files import CONFIG, URL_FILE, WEIGHTS, step_of
from sheeprl.checkpoint.initial import InitialNetworks, read_initial
from sheeprl.checkpoint.initial_rows import InitialRows, find_rows, kept_rows
from sheeprl.checkpoint.run_dir import (
    base_folder,
    checkpoints,
    find_checkpoint,
    make_run_dir,
    named_folder,
    read_config,
    replay_folder,
    unfinished_start,
)
from sheeprl.checkpoint.runs import is_stored
from sheeprl.checkpoint.start import Start, read_start
from sheeprl.checkpoint.storage import RunStorage, Saved, restore_metrics, run_storage
from sheeprl.config.loading import apply_overrides, get_value, inspect
from sheeprl.config.schema import Config, structural_keys
from sheeprl.config.suggestions import shown
from sheeprl.config.yaml_io import parse_yaml
from sheeprl.metrics.counters import Counters
from sheeprl.metrics.env_changes import EnvChanges
from sheeprl.metrics.time_breakdown import StartupTimer
from sheeprl.utils.errors import ConfigError, one_line, shell_command
from sheeprl.utils.text import counted

if TYPE_CHECKING:
    from sheeprl.envs.transforms import Spaces


@dataclass(frozen=True)
class RunDir:
    """Folder of a run and its starting point.

    Args:
        run_dir: the path of the folder.
        start: the checkpoint to resume from, None for a new run.
        shards: number of replay shards; in coupled mode one per rank.
        startup: timer of the start-up phases.
        storage: where checkpoints are, None for the run folder.
        spaces: spaces of the agent; None on ranks that write no files.
        initial: networks that a new run begins with; None for random ones.
        rows: rows of another run that the replay begins with; None without them.
    """

    run_dir: Path
    start: Start | None
    shards: int = 1
    startup: StartupTimer = field(default_factory=StartupTimer)
    storage: RunStorage | None = None
    spaces: Spaces | None = None
    initial: InitialNetworks | None = None
    rows: InitialRows | None = None


def open_run_dir(
    config: Config, spaces: Spaces, startup: StartupTimer, shards: int, log: Callable[[str], None]
) -> RunDir:
    """Create the folder of a new run, or find the newest checkpoint of a resumed one.

    Args:
        config: the run's configuration, resolved.
        spaces: observation and action space of the agent.
        startup: timer of the start-up phases.
        shards: number of replay shards.
        log: called with a message for each skipped or downloaded checkpoint.

    Raises:
        ConfigError: the folder contains another run or an incompatible checkpoint, the storage can't be read, or
            `algo.init_from` or `buffer.init_from` can't be loaded.
    """
    resume = config.run.resume
    if resume is True and config.run.dir is None:
        raise ConfigError(["run.resume=true: set run.dir to the folder of the run to resume"])
    start = initial = rows = None
    if resume:
        folder = named_folder(config)
        storage = run_storage(config, folder)
        if start := newest_start(folder, config, log, storage):
            check_fits(start, config)
            if mistakes := _passed(config, start.checkpoint, start.stats["counters"]["policy_steps"]):
                raise ConfigError(mistakes)
            if resume == "auto":
                _check_unchanged(start, config)
        elif resume == "auto":
            unfinished_start(folder, log)
    if start is None:
        initial, rows = read_initial(config, spaces), find_rows(config, spaces)
        folder = make_run_dir(config)
        storage = run_storage(config, folder)
    elif start.buffer is None:
        rows = kept_rows(config, folder.resolve())
    return RunDir(folder.resolve(), start, shards, startup, storage, spaces, initial, rows)


def claim_storage(config: Config, opened: RunDir) -> None:
    """Become the only driver that writes checkpoints of the run at `checkpoint.storage`, and check that this works.

    Raises:
        ConfigError: the storage isn't readable and writable, or has the checkpoints of another run.
    """
    if opened.storage is None:
        return
    setting, url = f"checkpoint.storage={config.checkpoint.storage}", opened.storage.url
    try:
        if opened.start is None and opened.storage.checkpoints():
            advice = f"resume it with {shell_command('resume', url)}, or use another run.dir, whose name the URL has"
            raise ConfigError([f"{setting}: {url} already contains a run; {advice}"])
        opened.storage.take_lease()
    except OSError as error:
        raise ConfigError([f"{setting}: can't be used: {one_line(error)}"]) from error
    (opened.run_dir / URL_FILE).write_text(opened.storage.url, encoding="utf-8")


def set_damaged_aside(opened: RunDir) -> None:
    """Rename the damaged checkpoints that a resume has skipped, so that nothing takes them for the newest ones.

    The new name begins with `damaged_`. Checkpoints at `checkpoint.storage` keep their names.
    """
    if opened.start is None or opened.storage is not None:
        return
    for path in checkpoints(opened.run_dir):
        if step_of(path) > step_of(opened.start.checkpoint):
            path.rename(path.with_name(f"damaged_{path.name}"))


def _check_unchanged(start: Start, config: Config) -> None:
    """Check that a resumed configuration has the values of the checkpoint where they can't change.

    Raises:
        ConfigError: a setting differs.
    """
    before, now = parse_yaml((start.checkpoint / CONFIG).read_text(encoding="utf-8"), CONFIG), config.to_tree()
    fixed = {*FIXED, *structural_keys(type(config))} - {"run.dir", "run.resume", *ORIGINS}
    changed = sorted(key for key in fixed if repr(get_value(before, key)) != repr(get_value(now, key)))
    if changed:
        raise ConfigError([_differs(key, get_value(now, key), get_value(before, key)) for key in changed])


def _differs(key: str, value: Any, before: Any) -> str:
    """Return the mistake of a setting that differs from that of the run to resume."""
    advice = f"use {shown(before)}, or another run.dir for a new run"
    return f"{key}={shown(value)}: can't change in a resumed run; {advice}"


def clear_other_layout(config: Config, opened: RunDir) -> None:
    """Remove memory-mapped files whose shards have another number or size; the checkpoint has their rows.

    Raises:
        ConfigError: the checkpoint doesn't include the replay.
    """
    folder = replay_folder(config, opened.run_dir)
    if folder is None or opened.start is None or not Path(folder).is_dir():
        return
    from sheeprl.buffer.memmap import capacity_of

    assert config.buffer.size is not None
    found = {path.name: capacity_of(path) for path in Path(folder).glob("shard_*")}
    expected = {f"shard_{number}": config.buffer.size // opened.shards for number in range(opened.shards)}
    if not found or found == expected:
        return
    if opened.start.buffer is None:
        raise ConfigError(
            [
                f"buffer: {folder} has {counted(len(found), 'shard')} of {counted(max(found.values()), 'row')}, "
                "but no checkpoint has them; resume with the same number and size of shards"
            ]
        )
    shutil.rmtree(folder)


def newest_start(
    run_dir: Path, config: Config, log: Callable[[str], None], storage: RunStorage | None = None
) -> Start | None:
    """Return the newest undamaged checkpoint, at the storage or in the run folder; log each damaged one.

    Raises:
        ConfigError: the run has only damaged checkpoints, or the storage can't be read.
    """
    damaged: list[str] = []
    if storage is not None:
        try:
            if start := _newest_stored(storage, run_dir, damaged, log):
                if config.checkpoint.keep_best:
                    _fetch_older(storage, run_dir)
                return start
        except OSError as error:
            raise ConfigError([f"checkpoint.storage={config.checkpoint.storage}: {one_line(error)}"]) from error
    for path in reversed(checkpoints(run_dir)):
        if start := _start_unless_damaged(path, damaged):
            if start.replay is None:  # else its rows were at the storage
                return start
            damaged.append(f"{path}: its rows aren't at {start.replay}")
        log(f"warning: {path.name} is skipped: {damaged[-1]}")
    if damaged:
        raise ConfigError([f"run.dir={run_dir}: contains no complete checkpoint: {reason}" for reason in damaged])
    return None


def _newest_stored(storage: RunStorage, run_dir: Path, damaged: list[str], log: Callable[[str], None]) -> Start | None:
    """Return the newest undamaged checkpoint at the storage, copied to the run folder without its rows."""
    for saved in reversed(storage.checkpoints()):
        if start := _fetched_unless_damaged(storage, saved, run_dir, damaged):
            return start
        log(f"warning: {saved.folder} is skipped: {damaged[-1]}")
    return None


def _fetch_older(storage: RunStorage, run_dir: Path) -> None:
    """Copy the other checkpoints at the storage to the run folder, so that the best ones are retained."""
    for saved in storage.checkpoints():
        if not (run_dir / "checkpoints" / saved.folder).exists():
            _fetched_unless_damaged(storage, saved, run_dir, [])


def _fetched_unless_damaged(storage: RunStorage, saved: Saved, run_dir: Path, damaged: list[str]) -> Start | None:
    """Return a checkpoint at the storage; for a damaged one, append the reason to `damaged` and return None."""
    try:
        start = read_start(storage.fetch(saved, run_dir / "checkpoints"))
        restore_metrics(start.checkpoint, run_dir)
        if not (run_dir / EPISODES).exists():  # the checkpoint has no file of episodes
            start.stats["episodes_written"] = 0
        return start
    except manifest.DamagedCheckpointError as error:
        damaged.append(str(error))
        return None


def _start_unless_damaged(path: Path, damaged: list[str]) -> Start | None:
    """Return a checkpoint; for a damaged one, append the reason to `damaged` and return None."""
    try:
        manifest.verify(path)
        return read_start(path)
    except manifest.DamagedCheckpointError as error:
        damaged.append(str(error))
        return None


def check_fits(start: Start, config: Config) -> None:
    """Check that the algorithm of a checkpoint is the configured one.

    Raises:
        ConfigError: it is another algorithm.
    """
    if start.algorithm != config.algo.name:
        raise ConfigError(
            [f"algo.name={config.algo.name}: {start.checkpoint} is a checkpoint of {start.algorithm}; use that"]
        )


def length_mistakes(config: Config) -> Iterator[str]:
    """Yield a mistake if a resumed run gets a new `run.total_steps` that its newest checkpoint has passed."""
    if config.run.resume and (found := checkpoints(named_folder(config))):
        with suppress(ConfigError):  # a damaged checkpoint, which a resume skips
            yield from _passed(config, found[-1], read_counters(found[-1]).policy_steps)


def _passed(config: Config, checkpoint: Path, policy_steps: int) -> list[str]:
    """Return the mistake of a new `run.total_steps` below the policy steps of a checkpoint."""
    before = get_value(parse_yaml((checkpoint / CONFIG).read_text(encoding="utf-8"), CONFIG), "run.total_steps")
    if config.run.total_steps >= min(policy_steps, before):
        return []
    taken = counted(policy_steps, "policy step")
    return [f"run.total_steps={config.run.total_steps}: the run has taken {taken} already; use a larger number"]


def read_counters(checkpoint: Path) -> Counters:
    """Return the counters of a checkpoint.

    Raises:
        ConfigError: the state file is damaged.
    """
    try:
        return Counters(**read_start(checkpoint).stats["counters"])
    except manifest.DamagedCheckpointError as error:
        raise ConfigError([str(error)]) from error


def read_env_values(checkpoint: Path) -> dict[str, Any]:
    """Return the attributes of environments that callbacks had set before a checkpoint.

    Raises:
        ConfigError: the state file is damaged.
    """
    try:
        stats = read_start(checkpoint).stats
    except manifest.DamagedCheckpointError as error:
        raise ConfigError([str(error)]) from error
    return EnvChanges((first, values) for first, values in stats.get("env_changes", ())).at(
        stats["counters"]["version"]
    )


# Settings that a resumed run can't change, besides the structural arguments of the algorithm.
ORIGINS = ("algo.init_from", "buffer.init_from")
"""Settings that name another run, where a new run begins."""
FIXED = (
    *("algo.name", "algo.init_from", "buffer.init_from", "env.id", "env.kwargs", "env.wrappers"),
    *("run.seed", "run.dir", "run.resume"),
)


def fetch_run(url: str, overrides: Sequence[str] = ()) -> Path:
    """Create a run folder from the newest checkpoint at a URL.

    Args:
        url: the URL or folder of the run at `checkpoint.storage`.
        overrides: settings, each as `section.key=value`; `run.dir` names the new folder.

    Raises:
        ConfigError: the URL has no checkpoint of a run, or the folder already contains a run.
    """
    tree: dict[str, Any] = {}
    apply_overrides(tree, overrides)
    named = get_value(tree, "run.dir")
    folder = base_folder() / Path(str(named) if named else f"logs/{url.rstrip('/').rpartition('/')[2]}").expanduser()
    if (folder / CONFIG).exists():
        command = shell_command("resume", folder)
        raise ConfigError([f"{folder}: already contains a run; use {command}, or set run.dir"])
    damaged: list[str] = []
    try:
        storage = RunStorage(url if "://" in url else str(Path(url).expanduser().absolute()))
        start = _newest_stored(storage, folder, damaged, lambda text: None)
    except (OSError, ValueError) as error:
        raise ConfigError([f"{url}: {one_line(error)}"]) from error
    if start is None:
        raise ConfigError([f"{url}: contains no complete checkpoint{''.join(f'; {reason}' for reason in damaged)}"])
    shutil.copy(start.checkpoint / CONFIG, folder / CONFIG)
    (folder / URL_FILE).write_text(storage.url, encoding="utf-8")
    return folder


def resume_tree(run_dir: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the unvalidated configuration of a resumed run.

    Args:
        run_dir: the run folder, or the run's URL or folder at `checkpoint.storage`.
        overrides: settings, each as `section.key=value`.

    Raises:
        ConfigError: the run or its checkpoint doesn't exist, or a setting can't change.
    """
    if is_stored(run_dir):
        run_dir = str(fetch_run(run_dir, overrides))
        overrides = [override for override in overrides if not override.startswith("run.dir=")]
    folder, checkpoint = find_checkpoint(run_dir)
    if Path(run_dir).expanduser().resolve() == checkpoint:
        command = shell_command("resume", folder)
        raise ConfigError([f"{run_dir}: is a checkpoint; resume the run, from its newest checkpoint, with {command}"])
    if (checkpoint / WEIGHTS).is_file():
        raise ConfigError(
            [
                f"{run_dir}: has only the policy, without optimizers, and can't be resumed; train again with "
                f"{shell_command('run', folder / CONFIG)}"
            ]
        )
    tree = read_config(folder)
    before = copy.deepcopy(tree)
    apply_overrides(tree, overrides)
    config, _ = inspect(before)
    fixed = {*FIXED, *structural_keys(type(config))} if config else set(FIXED)
    changed = [key for key in (override.partition("=")[0] for override in overrides) if key in fixed]
    changed = [key for key in changed if get_value(tree, key) != get_value(before, key)]
    # The texts are equal if both values contain NaN, which isn't equal to itself.
    if changed := [key for key in changed if repr(get_value(tree, key)) != repr(get_value(before, key))]:
        raise ConfigError([_fixed(key, tree, before, folder) for key in changed])
    tree.setdefault("run", {}).update(dir=str(folder), resume=True)
    return tree


def _fixed(key: str, tree: dict[str, Any], before: dict[str, Any], folder: Path) -> str:
    """Return the mistake of a setting that a resumed run can't change."""
    value, old = get_value(tree, key), get_value(before, key)
    if key == "run.dir":
        advice = f"leave it out: the run continues in {folder}; to continue in a copy, copy that folder and resume it"
    elif key == "run.resume" or old is None:
        advice = "leave it out"
    else:
        advice = f"leave it out, or use {shown(old)}"
    return f"{key}={shown(value)}: can't change in a resumed run; {advice}"
