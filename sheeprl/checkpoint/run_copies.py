"""Copy runs at `checkpoint.storage` to the user's cache folder, for the commands that read a run.

A copy has the run's configuration, its files of results and the checkpoints that a command needs, without their rows.
A command brings the copy up to date each time.
"""

from __future__ import annotations

import fcntl
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sheeprl.callbacks.records import EPISODES, EVALUATIONS
from sheeprl.checkpoint.files import CONFIG, METRICS
from sheeprl.checkpoint.manifest import DamagedCheckpointError
from sheeprl.checkpoint.run_info import RUN_INFO
from sheeprl.checkpoint.spaces_file import SPACES
from sheeprl.checkpoint.storage import CHECKPOINTS, RunStorage, Saved
from sheeprl.utils.errors import ConfigError, one_line
from sheeprl.utils.files import write_atomically
from sheeprl.utils.folders import cache_root
from sheeprl.utils.objects import as_url, content_name

RESULTS = (CONFIG, METRICS, EPISODES, EVALUATIONS, RUN_INFO, SPACES)
SOURCE = ".source"  # file of a copied checkpoint with the name of its manifest


@dataclass(frozen=True)
class RunCopy:
    """Copy of a run at a URL.

    Args:
        url: URL of the run.
        folder: folder of the copy.
        newest: its newest checkpoint at the URL.
    """

    url: str
    folder: Path
    newest: Saved


def copy_checkpoint(name: str, every: bool = False) -> Path:
    """Copy a run with a checkpoint.

    Args:
        name: URL or folder of the run at `checkpoint.storage`, or that of a checkpoint, which ends with
            `checkpoints/step_<n>`.
        every: True for all checkpoints of the run, False for the newest one.

    Returns:
        The folder of the newest checkpoint, or of the named one.

    Raises:
        ConfigError: there is no such run or checkpoint, or it can't be read.
    """
    named = re.fullmatch(rf"(.+)/{CHECKPOINTS}/step_(\d+)/?", name)
    with _reading(named[1] if named else name) as storage:
        found = _checkpoints(storage)
        chosen = [saved for saved in found if saved.step == int(named[2])] if named else found
        if not chosen:
            raise ConfigError([f"{name}: no such checkpoint; there are {', '.join(saved.folder for saved in found)}"])
        with _updating(storage) as folder:
            copied = _copy_undamaged(storage, chosen, folder, every)
            for file in RESULTS:
                if (copied / file).is_file():
                    write_atomically(folder / file, (copied / file).read_bytes(), sync=False)
            _remove_old(folder, {saved.folder for saved in found})
    return copied


def copy_results(url: str) -> Iterator[RunCopy]:
    """Copy the results of the run at a URL, or of each run in the folder at the URL, without checkpoints.

    Runs with only damaged checkpoints are left out.

    Raises:
        ConfigError: the URL can't be read.
    """
    with _reading(url) as storage:
        names = [""] if storage.checkpoints() else [f"/{name}" for name in storage.objects.folders()]
    for name in names:
        with _reading(f"{storage.url}{name}") as run:
            if not (found := run.checkpoints()):
                continue
            with _updating(run) as folder:
                newest = next((saved for saved in reversed(found) if _copy_results(run, saved, folder)), None)
        if newest is not None:
            yield RunCopy(run.url, folder, newest)


@contextmanager
def _reading(name: str) -> Iterator[RunStorage]:
    """Yield the storage at a URL or in a folder; convert its errors.

    Raises:
        ConfigError: the URL is invalid, or can't be read.
    """
    url = as_url(name if "://" in name else str(Path(name).expanduser().absolute()))
    try:
        yield RunStorage(url)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError([f"{name}: {one_line(error).removeprefix(f'{url}: ')}"]) from error


def _checkpoints(storage: RunStorage) -> list[Saved]:
    """Return the checkpoints of a run, oldest first.

    Raises:
        ConfigError: there is none.
    """
    found = storage.checkpoints()
    if not found:
        raise ConfigError([f"{storage.url}: contains no checkpoint of a run; name it as <checkpoint.storage>/<run>"])
    return found


@contextmanager
def _updating(storage: RunStorage) -> Iterator[Path]:
    """Yield the folder of a run's copy; another process that updates it is awaited.

    Raises:
        OSError: the cache folder isn't writable.
    """
    parent = cache_root() / "runs" / content_name(storage.url.encode())[:16]
    folder = parent / storage.url.rpartition("/")[2]
    folder.mkdir(parents=True, exist_ok=True)
    with (parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def _copy_results(storage: RunStorage, saved: Saved, folder: Path) -> bool:
    """Copy the configuration and the results of a run, as they were at a checkpoint; return False if it is damaged."""
    try:
        files = storage.read_files(saved, RESULTS)
    except DamagedCheckpointError:
        return False
    for name, data in files.items():
        write_atomically(folder / name, data, sync=False)
    return True


def _copy_undamaged(storage: RunStorage, found: list[Saved], folder: Path, every: bool) -> Path:
    """Copy the newest undamaged checkpoint, or all of them, and return the folder of the newest one.

    Raises:
        ConfigError: all checkpoints are damaged.
    """
    copied, damaged = list[Path](), list[str]()
    for saved in reversed(found):
        try:
            copied.append(_copy_once(storage, saved, folder / CHECKPOINTS))
        except DamagedCheckpointError as error:
            damaged.append(f"; {error}")
        if copied and not every:
            break
    if not copied:
        raise ConfigError([f"{storage.url}: contains no complete checkpoint{''.join(damaged)}"])
    return copied[0]


def _copy_once(storage: RunStorage, saved: Saved, into: Path) -> Path:
    """Copy a checkpoint unless the copy exists."""
    source = into / saved.folder / SOURCE
    if not source.is_file() or source.read_text() != saved.name:
        storage.fetch(saved, into)
        source.write_text(saved.name)
    return into / saved.folder


def _remove_old(folder: Path, present: set[str]) -> None:
    """Remove the copies of checkpoints that the run has removed."""
    for path in (folder / CHECKPOINTS).glob("step_*"):
        if path.name not in present:
            shutil.rmtree(path, ignore_errors=True)
