"""The folder of a run: found or made, claimed, and what it goes on from.

Light to import, as `launch` is.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sheeprl.checkpoint import manifest
from sheeprl.checkpoint.files import CONFIG, LOCK, write_atomically
from sheeprl.config.schema import Config
from sheeprl.config.yaml_io import parse_yaml
from sheeprl.utils.errors import ConfigError


@contextmanager
def lock_run_dir(run_dir: Path) -> Iterator[None]:
    """Have the folder to oneself; take it back if it was made for a run in which nothing came to be written.

    Raises:
        ConfigError: another process runs what is in it.
    """
    with locked(run_dir):
        try:
            yield
        finally:
            if [path.name for path in run_dir.iterdir()] == [LOCK]:
                (run_dir / LOCK).unlink()
                run_dir.rmdir()


def write_config(config: Config, run_dir: Path) -> None:
    """Write down what is run."""
    # Without the folder itself, so that the file runs again as it is, and without what follows from the size of a
    # rollout, so that it also runs with another one.
    update: dict[str, Any] = {"run": config.run.model_copy(update={"dir": None, "resume": False})}
    if not config.algo.data().is_off_policy:
        update["buffer"] = config.buffer.model_copy(update={"size": None})
        update["players"] = config.players.model_copy(update={"fragment_rows": None})
    kept = config.model_copy(update=update)
    write_atomically(run_dir / CONFIG, kept.to_yaml())


def video_folder(config: Config, run_dir: Path) -> str | None:
    """Where episodes are recorded, if they are."""
    return str(run_dir / "videos") if config.env.capture_video else None


def replay_folder(config: Config, run_dir: Path) -> str | None:
    """Where the replay is mapped from; a folder of the run's own below the one that is named."""
    if not config.buffer.memmap:
        return None
    if config.buffer.dir is None:
        return str(run_dir / "buffer")
    own = hashlib.sha256(str(run_dir).encode()).hexdigest()[:8]
    return str(Path(config.buffer.dir).expanduser().resolve() / f"{run_dir.name}_{own}")


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


def checkpoints(run_dir: Path) -> list[Path]:
    """The checkpoints of a run that were written to their end, oldest first."""
    folders = (run_dir / "checkpoints").glob("step_*")
    found = [path for path in folders if path.name[5:].isdigit() and manifest.is_whole(path)]
    return sorted(found, key=lambda path: int(path.name[5:]))


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Keep other processes from going on with the same run.

    Raises:
        ConfigError: one does, or nothing can be written there.
    """
    try:
        descriptor = os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigError([f"run.dir={run_dir}: can't be written to: {error.strerror}"]) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError([f"run.dir={run_dir}: another process is running it"]) from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)


def find_checkpoint(path: str) -> tuple[Path, Path]:
    """The run folder and the checkpoint that a user means by a run's folder or a checkpoint's.

    Raises:
        ConfigError: neither is there.
    """
    folder = Path(path).expanduser().resolve()
    if not folder.exists():
        raise ConfigError([f"{path}: no such folder"])
    if manifest.is_whole(folder):
        return folder.parent.parent, folder
    if not (folder / CONFIG).is_file():
        raise ConfigError([f"{path}: is neither a run's folder (no {CONFIG}) nor a checkpoint (no manifest.json)"])
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
