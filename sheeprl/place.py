"""The folder of a run: found or made, claimed, and what it goes on from.

Light to import, as `launch` is.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sheeprl.config import Config, ConfigError
from sheeprl.time_spent import StartUp

if TYPE_CHECKING:
    from sheeprl.checkpoint import Start


@dataclass(frozen=True)
class Place:
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
    startup: StartUp = field(default_factory=StartUp)


def find_place(config: Config, startup: StartUp, shards: int, say: Callable[[str], None]) -> Place:
    """Where the run is kept, its folder made, and what it goes on from.

    Args:
        config: the run's configuration, resolved.
        startup: what starting it takes.
        shards: parts of the replay.
        say: tells of checkpoints that are passed over.

    Raises:
        ConfigError: the folder holds another run, or a checkpoint that doesn't fit.
    """
    from sheeprl import checkpoint

    if config.run.resume and config.run.dir is None:
        raise ConfigError(["run.resume=true: needs run.dir, the folder of the run to go on with"])
    if config.run.resume:
        folder = checkpoint.named_folder(str(config.run.dir))
        if start := checkpoint.newest_start(folder, config, say):
            checkpoint.check_fits(start, config)
            return Place(folder.resolve(), start, shards, startup)
    return Place(checkpoint.make_run_dir(config).resolve(), None, shards, startup)


@contextmanager
def claimed(place: Place) -> Iterator[None]:
    """Have the folder to oneself; take it back if it was made for a run in which nothing came to be written.

    Raises:
        ConfigError: another process runs what is in it.
    """
    from sheeprl.checkpoint import LOCK, locked

    with locked(place.run_dir):
        try:
            yield
        finally:
            if [path.name for path in place.run_dir.iterdir()] == [LOCK]:
                (place.run_dir / LOCK).unlink()
                place.run_dir.rmdir()


def write_config(config: Config, place: Place) -> None:
    """Write down what is run."""
    from sheeprl.checkpoint import CONFIG, write_atomically

    # Without the folder itself, so that the file runs again as it is, and without what follows from the size of a
    # rollout, so that it also runs with another one.
    update: dict[str, Any] = {"run": config.run.model_copy(update={"dir": None, "resume": False})}
    if not config.algo.data().carries_debt:
        update["buffer"] = config.buffer.model_copy(update={"size": None})
        update["players"] = config.players.model_copy(update={"fragment_rows": None})
    kept = config.model_copy(update=update)
    write_atomically(place.run_dir / CONFIG, kept.to_yaml())


def first_incarnations(config: Config, place: Place) -> list[int]:
    """Which incarnation each player starts as: the one whose state it takes over, or one that hasn't played yet."""
    start = place.start
    played: list[int] = start.books["counters"]["incarnations"] if start else []
    kept = start.players(config) if start else {}
    return [
        kept[number].incarnation if number in kept else (played[number] if number < len(played) else -1) + 1
        for number in range(config.players.num or 1)
    ]


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


def clear_other_layout(config: Config, place: Place) -> None:
    """Remove mapped files that are cut up otherwise than the run is now; the checkpoint has all that is in them.

    Raises:
        ConfigError: it hasn't.
    """
    folder = replay_folder(config, place.run_dir)
    if folder is None or place.start is None or not Path(folder).is_dir():
        return
    from sheeprl.buffer.memory import capacity_of

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
