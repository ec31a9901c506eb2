"""The run's folder and the checkpoints in it."""

from __future__ import annotations

import asyncio
import copy
import fcntl
import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sheeprl import manifest
from sheeprl.actors.players import Kept
from sheeprl.actors.trainers import Snapshot
from sheeprl.algos.args import OffPolicy, OnPolicy
from sheeprl.books import Counters
from sheeprl.config import Config, ConfigError, apply_overrides, get_value, inspect, parse_yaml, structural_keys
from sheeprl.errors import one_line

if TYPE_CHECKING:
    from sheeprl.mirror import Mirror

STATE = "state.json"
AGENT = "agent.pt"
CONFIG = "config.yaml"
LOCK = ".lock"
METRICS = "metrics.jsonl"
METRICS_SIZE = ".metrics_size"  # while a checkpoint is being written


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
    """The checkpoints of a run that were written to their end, oldest first."""
    folders = (run_dir / "checkpoints").glob("step_*")
    found = [path for path in folders if path.name[5:].isdigit() and manifest.is_whole(path)]
    return sorted(found, key=lambda path: int(path.name[5:]))


class CheckpointKeeper:
    """Writes checkpoints of a run and removes old ones.

    Args:
        run_dir: the run's folder.
        config: what to keep, and for how long.
        shards: parts of the replay.
        on_problem: is told what doesn't keep a checkpoint from being whole.
    """

    def __init__(
        self,
        run_dir: Path,
        config: Config,
        shards: int = 1,
        on_problem: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.run_dir, self.folder = run_dir, run_dir / "checkpoints"
        self.config = config
        self.shards = shards
        self.on_problem = on_problem
        self.mirror = mirror_of(config, run_dir)
        # Between rounds, when checkpoints are written, a rollout has been used up.
        self._keeps_buffer = config.buffer.checkpoint and isinstance(config.algo.data(), OffPolicy)
        self._clear_remains()

    @property
    def keeps_buffer(self) -> bool:
        """Whether the replay is saved with each checkpoint."""
        return self._keeps_buffer

    @property
    def newest_buffer(self) -> str | None:
        """The replay as the newest checkpoint has it."""
        with_buffer = [path / "buffer" for path in checkpoints(self.run_dir) if (path / "buffer").is_dir()]
        return str(with_buffer[-1]) if with_buffer else None

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

    def begin(self, policy_steps: int) -> str:
        """Make the folder in which a checkpoint is written, beside the others.

        Raises:
            OSError: it can't be made.
        """
        partial = self.folder / f".step_{policy_steps}.part"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / METRICS_SIZE).write_text(str(_size(self.run_dir / METRICS)))
        return str(partial)

    def abandon(self, folder: str) -> None:
        """Remove what was begun."""
        shutil.rmtree(folder, ignore_errors=True)

    async def finish(
        self, folder: str, books: Mapping[str, Any], snapshot: Snapshot, players: Mapping[int, Kept]
    ) -> None:
        """Write the rest into a folder in which the replay is saved, give it its name, then remove the oldest.

        Raises:
            OSError: it can't be written.
        """
        final = await asyncio.to_thread(self._finish, Path(folder), books, snapshot, players)
        if self.mirror is not None:
            await asyncio.to_thread(self._send, self.mirror, final)

    def _finish(self, partial: Path, books: Mapping[str, Any], snapshot: Snapshot, players: Mapping[int, Kept]) -> Path:
        final = self.folder / partial.name[1:-5]
        state = {
            "algorithm": self.config.algo.name,
            "shards": self.shards,
            "metrics_size": int((partial / METRICS_SIZE).read_text()),
            "players": {str(number): kept.incarnation for number, kept in players.items()},
            "books": books,
        }
        (partial / METRICS_SIZE).unlink()
        _write(partial / AGENT, snapshot.data.tobytes())
        for number, kept in players.items():
            _write(partial / f"player_{number}.pt", kept.data)
        _write(partial / STATE, json.dumps(state, indent=1).encode())
        _write(partial / CONFIG, (self.run_dir / CONFIG).read_bytes())
        returns = books["recent_returns"]
        about = {
            "algorithm": self.config.algo.name,
            "policy_steps": books["counters"]["policy_steps"],
            "gradient_steps": books["counters"]["gradient_steps"],
            "mean_return": sum(returns) / len(returns) if returns else None,
        }
        manifest.write(partial, about)
        self._replace(final, partial)
        self._remove_old()
        return final

    def _replace(self, final: Path, partial: Path) -> None:
        """Give a whole checkpoint its name, which another may have, as when a finished run is resumed."""
        old = self.folder / f".{final.name}.old"
        if final.exists():
            final.rename(old)
        partial.rename(final)
        manifest.sync_folder(self.folder)
        shutil.rmtree(old, ignore_errors=True)

    def _remove_old(self) -> None:
        """Keep the newest checkpoints, and those with the best returns."""
        found = checkpoints(self.run_dir)
        for path in set(found) - set(self._worth_keeping(found)):
            shutil.rmtree(path)

    def _worth_keeping(self, found: Sequence[Path]) -> list[Path]:
        settings = self.config.checkpoint
        kept = list(found[-settings.keep_last :])
        if settings.keep_best:
            scored = [(score, path) for path in found if (score := _score(path)) is not None]
            best = sorted(scored, key=lambda pair: (pair[0], _number(pair[1])))[-settings.keep_best :]
            kept += [path for _, path in best]
        return kept

    def _send(self, mirror: Mirror, final: Path) -> None:
        """Have the mirror hold what is kept here, and nothing else."""
        try:
            mirror.upload(final)
            kept = {path.name for path in checkpoints(self.run_dir)}
            for name in mirror.names():
                if name not in kept:
                    mirror.remove(name)
        except (OSError, ValueError) as error:
            self.on_problem(f"{final.name} is kept here, but not in checkpoint.mirror: {one_line(error)}")


def mirror_of(config: Config, run_dir: Path) -> Mirror | None:
    """Where the run's checkpoints are kept besides.

    Raises:
        ConfigError: the address can't be used.
    """
    if config.checkpoint.mirror is None:
        return None
    from sheeprl.mirror import Mirror

    try:
        return Mirror(f"{config.checkpoint.mirror.rstrip('/')}/{run_dir.name}")
    except ValueError as error:
        raise ConfigError([f"checkpoint.mirror={config.checkpoint.mirror}: {error}"]) from error


def _score(checkpoint: Path) -> float | None:
    """The mean return at the time; None if it isn't known."""
    try:
        score: float | None = manifest.read(checkpoint).about["mean_return"]
    except manifest.DamagedCheckpointError:
        return None
    return score


def _number(checkpoint: Path) -> int:
    return int(checkpoint.name[5:])


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


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
    books: dict[str, Any]
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

    def players(self, config: Config) -> dict[int, Kept]:
        """What the players held, as far as it fits the run; by number.

        A player's state goes with the rows that it has brought: where these aren't restored it begins anew.
        """
        if isinstance(config.algo.data(), OffPolicy) and self.buffer is None:
            return {}
        return {
            number: Kept(incarnation, (self.checkpoint / f"player_{number}.pt").read_bytes())
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
        return Counters(**read_start(checkpoint).books["counters"])
    except manifest.DamagedCheckpointError as error:
        raise ConfigError([str(error)]) from error


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
    from sheeprl.mirror import Mirror

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
