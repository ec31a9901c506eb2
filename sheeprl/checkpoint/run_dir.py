"""The folder of a run: create it, lock it, and find its configuration and checkpoints.

This module imports neither torch nor Ray.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sheeprl.checkpoint import manifest
from sheeprl.checkpoint.files import CONFIG, INITIAL, INITIAL_ROWS, LOCK, MARKER, URL_FILE
from sheeprl.config.schema import Config
from sheeprl.config.yaml_io import parse_yaml
from sheeprl.metrics.watchdog import CRASH
from sheeprl.utils.errors import ConfigError, shell_command
from sheeprl.utils.files import write_atomically
from sheeprl.utils.folders import why_not_writable

RELEASE_SECONDS = 30.0
NO_CHECKPOINT = "it ended before its first checkpoint: repeat its command with run.resume=auto, or use another run.dir"


@contextmanager
def lock_run_dir(run_dir: Path) -> Iterator[None]:
    """Lock the run folder; delete it again if nothing was written.

    Raises:
        ConfigError: another process has the lock, or the folder isn't writable.
    """
    with locked(run_dir):
        try:
            yield
        finally:
            (run_dir / MARKER).unlink(missing_ok=True)
            if not {path.name for path in run_dir.iterdir()} - {LOCK, URL_FILE}:
                shutil.rmtree(run_dir)


def clear_run_dir(run_dir: Path) -> None:
    """Delete the files of a run that ended before its first round, except the files that this process has open."""
    for path in run_dir.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in (LOCK, CRASH):
            path.unlink(missing_ok=True)


def write_config(config: Config, run_dir: Path) -> None:
    """Write the configuration of a run into its folder."""
    # Without run.dir, so that `sheeprl train config.yaml` works unchanged.
    run = config.run.model_copy(update={"dir": None, "resume": False})
    saved = without_rollout_sizes(config).model_copy(update={"run": run})
    write_atomically(run_dir / CONFIG, saved.to_yaml().encode())


def without_rollout_sizes(config: Config) -> Config:
    """Return the configuration without the sizes that follow from the rollout, so that it fits other rollouts too."""
    if config.algo.data().is_off_policy:
        return config
    update = {
        "buffer": config.buffer.model_copy(update={"size": None}),
        "players": config.players.model_copy(update={"fragment_rows": None}),
    }
    return config.model_copy(update=update)


def video_folder(config: Config, run_dir: Path) -> str | None:
    """Return the folder for videos of episodes, None without `env.capture_video`."""
    return str(run_dir / "videos") if config.env.capture_video else None


def replay_folder(config: Config, run_dir: Path) -> str | None:
    """Return the folder of the memory-mapped replay, unique to the run; None without `buffer.memmap`."""
    if not config.buffer.memmap:
        return None
    if config.buffer.dir is None:
        return str(run_dir / "buffer")
    own = hashlib.sha256(str(run_dir).encode()).hexdigest()[:8]
    return str(Path(config.buffer.dir).expanduser().resolve() / f"{run_dir.name}_{own}")


def make_run_dir(config: Config) -> Path:
    """Create the folder of a new run; concurrent runs get different default folders.

    Raises:
        ConfigError: `run.dir` isn't empty or can't be created.
    """
    named = config.run.dir
    label = f"{config.run.name}_" if config.run.name else ""
    stem = f"{label}{time.strftime('%Y-%m-%d_%H-%M-%S')}_{config.run.seed}"
    is_named = named is not None or config.run.resume == "auto"
    folder = named_folder(config) if is_named else logs_folder(config) / stem
    check_run_dir(config)
    try:
        if is_named:
            folder.mkdir(parents=True, exist_ok=True)
        else:
            folder = _make_numbered(folder)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} isn't writable")
    except OSError as error:
        raise ConfigError([f"run.dir={named or folder}: can't be created: {error}"]) from error
    return folder


def check_run_dir(config: Config) -> None:
    """Check that the folder of a new run is unused.

    Raises:
        ConfigError: `run.dir` isn't empty.
    """
    named = config.run.dir
    if named is None:
        return
    folder = named_folder(config)
    if (folder / CONFIG).exists():
        advice = f"resume it with {shell_command('resume', named)}" if checkpoints(folder) else NO_CHECKPOINT
        raise ConfigError([f"run.dir={named}: already contains a run; {advice}"])
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError([f"run.dir={named}: exists and isn't an empty folder; use another run.dir"])


def folder_mistakes(config: Config) -> Iterator[str]:
    """Yield a mistake for each folder that a run can't use; create and lock nothing."""
    named = config.run.dir
    folder = base_folder() / "logs" if named is None else named_folder(config)
    if config.run.resume:
        if is_locked(folder):
            yield in_use(folder)
    else:
        try:
            check_run_dir(config)
        except ConfigError as error:
            yield from error.mistakes
            return
    if reason := why_not_writable(folder):
        yield f"run.dir={named or folder}: can't be written: {reason}; use another run.dir"
    if config.buffer.memmap and config.buffer.dir is not None:
        buffer = Path(config.buffer.dir).expanduser().resolve()
        if reason := why_not_writable(buffer):
            yield f"buffer.dir={config.buffer.dir}: can't be written: {reason}; use another buffer.dir"


def _make_numbered(folder: Path) -> Path:
    """Create a folder, with a number after its name if a run of the same second has the name."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        with suppress(FileExistsError):
            candidate.mkdir()
            break
    return candidate


def named_folder(config: Config) -> Path:
    """Return the folder that `run.dir` names; without it, the one that all runs with `run.resume=auto` share.

    Its name has no time, so that the same command finds it again.
    """
    if config.run.dir is None:
        return logs_folder(config) / f"{config.run.name or 'auto'}_{config.run.seed}"
    return base_folder() / Path(config.run.dir).expanduser()


def logs_folder(config: Config) -> Path:
    """Return the parent of the default folders of a configuration's runs."""
    algorithm, env = (re.sub(r"[^\w.-]", "_", name) for name in (config.algo.name, config.env.id))
    return base_folder() / "logs" / algorithm / env


def unfinished_start(run_dir: Path, log: Callable[[str], None]) -> None:
    """Empty the folder of a run that ended before its first checkpoint, so that it can be started again.

    Raises:
        ConfigError: another process uses the folder, or it contains other files.
    """
    if not run_dir.is_dir() or not any(run_dir.iterdir()):
        return
    if others := sorted(path.name for path in run_dir.iterdir() if not _is_of_run(path.name)):
        raise ConfigError([f"run.dir={run_dir}: contains {others[0]}, which isn't a run's file; use another run.dir"])
    with locked(run_dir):
        log(f"{run_dir} has no checkpoint yet; the run is started again")
        for path in run_dir.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
    (run_dir / LOCK).unlink(missing_ok=True)


def _is_of_run(name: str) -> bool:
    """Return True if a run writes a file or folder of this name."""
    return name.startswith((".", "metrics", "episodes", "evaluations", "events.out.", "error.log", CRASH)) or name in (
        CONFIG,
        "run.json",
        "spaces.json",
        "record.jsonl",
        "checkpoints",
        "buffer",
        "videos",
        "trackers",
        "profile",
        "dream.log",
        INITIAL,
        INITIAL_ROWS,
    )


def base_folder() -> Path:
    """Return the parent of relative run folders; in a Ray job the working folder is only a temporary copy."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return Path(os.environ.get("SHEEPRL_HOME", "~/sheeprl")).expanduser()
    return Path.cwd()


def checkpoints(run_dir: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first."""
    folders = (run_dir / "checkpoints").glob("step_*")
    found = [path for path in folders if path.name[5:].isdigit() and manifest.is_complete(path)]
    return sorted(found, key=lambda path: int(path.name[5:]))


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Lock a run folder against other processes.

    Raises:
        ConfigError: another process has the lock, or the folder isn't writable.
    """
    try:
        descriptor = os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigError([f"run.dir={run_dir}: isn't writable: {error.strerror}"]) from error
    try:
        if not _take_lock(descriptor):
            raise ConfigError([in_use(run_dir)])
        yield
    finally:
        os.close(descriptor)


def is_locked(run_dir: Path) -> bool:
    """Return True if a process uses the run folder; False if its file system has no locks."""
    try:
        descriptor = os.open(run_dir / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _take_lock(descriptor, fcntl.LOCK_SH, tries=1)
    finally:
        os.close(descriptor)


def is_locked_still(run_dir: Path, seconds: float = RELEASE_SECONDS) -> bool:
    """Wait until no process uses the run folder; return True if one does after some time.

    The workers of a killed driver need seconds to end.
    """
    until = time.monotonic() + seconds
    while is_locked(run_dir):
        if time.monotonic() >= until:
            return True
        time.sleep(0.2)
    return False


def _take_lock(descriptor: int, kind: int = fcntl.LOCK_EX, tries: int = 5) -> bool:
    """Lock a file and return True; return False if another process has the lock.

    Several tries, since `is_locked` has the lock for a moment.
    """
    for again in reversed(range(tries)):
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if not again:
                return False
            time.sleep(0.02)
        except OSError:  # the file system has no locks
            break
    return True


def in_use(run_dir: Path) -> str:
    """Return the mistake of a folder that another process uses."""
    return f"{run_dir}: another process is using it; stop it with {shell_command('stop', str(run_dir))}"


def unknown_run(name: str, likely: str = "") -> str:
    """Return the mistake of a name that leads to no run.

    Args:
        name: the name.
        likely: the name that was probably meant; "" if there is none.
    """
    advice = f"did you mean {likely}? (list: sheeprl ls)" if likely else "use one of sheeprl ls"
    return f"{name}: no such folder or run; {advice}"


def find_checkpoint(path: str) -> tuple[Path, Path]:
    """Return the run folder and the checkpoint for the path of a run (its newest checkpoint) or of a checkpoint.

    Raises:
        ConfigError: the path is neither, or the run has no checkpoint.
    """
    folder = Path(path).expanduser().resolve()
    if not folder.exists():
        raise ConfigError([unknown_run(path)])
    if manifest.is_complete(folder):
        return folder.parent.parent, folder
    if not (folder / CONFIG).is_file():
        raise ConfigError([f"{path}: is neither a run folder (no {CONFIG}) nor a checkpoint (no manifest.json)"])
    found = checkpoints(folder)
    if not found:
        raise ConfigError([f"{path}: contains no complete checkpoint; {NO_CHECKPOINT}"])
    return folder, found[-1]


def read_config(run_dir: Path) -> dict[str, Any]:
    """Return the unvalidated configuration of a run.

    Raises:
        ConfigError: the file can't be read.
    """
    path = run_dir / CONFIG
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError([f"{path}: can't be read: {error}"]) from error
    if not isinstance(tree, dict):
        raise ConfigError([f"{path}: isn't a configuration"])
    return tree
