"""Builds the plain objects of a run from its configuration, wherever they live."""

from __future__ import annotations

import logging
import os
import time
import warnings
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from sheeprl import seeding
from sheeprl.actors.replay import Replay
from sheeprl.actors.trainer import Learner
from sheeprl.buffer import ReplayBuffer
from sheeprl.buffer.memory import has_buffer, in_use
from sheeprl.config import Config
from sheeprl.envs.transforms import Spaces

LET_GO = 30.0  # seconds that a process that was killed may take to let go of its files


def build_replay(
    config: Config, shard: int = 0, shards: int = 1, incarnation: int = 0, folder: str | None = None
) -> Replay:
    """The replay, or one of its shards, which in coupled mode are the ranks' parts.

    Args:
        config: the run's configuration, resolved.
        shard: its number.
        shards: how many there are.
        incarnation: how often it has been replaced.
        folder: where the shards are mapped from, if they are.

    Raises:
        BlockingIOError: another process uses the shard's files.
    """
    data = config.algo.data()
    drawn_alone = shards if config.run.mode == "coupled" else 1  # each rank draws its share of a batch
    buffer = _open_buffer(config, shard, shards, incarnation, Path(folder) / f"shard_{shard}" if folder else None)
    return Replay(buffer, (data.batch_size or 0) // drawn_alone, shard, shards)  # a rollout is read whole


def _open_buffer(config: Config, shard: int, shards: int, incarnation: int, folder: Path | None) -> ReplayBuffer:
    """A new buffer, or the one that a process which was lost has left in the folder."""
    data, settings = config.algo.data(), config.buffer
    assert settings.size is not None
    capacity = settings.size // shards
    seed = seeding.sequence(config.run.seed, seeding.Role.BUFFER, shard, incarnation)
    how: dict[str, Any] = {
        "prioritized": data.prioritized,
        "online_fraction": settings.online_fraction,
        "non_finite": settings.non_finite,
    }
    if folder is None or not has_buffer(folder):
        return ReplayBuffer(capacity, data.sampler, seed, memmap=folder, **how)
    if not incarnation and not config.run.resume:
        raise FileExistsError(f"{folder} holds the replay of another run; use another buffer.dir")
    _wait_for(folder)
    return ReplayBuffer.attach(folder, capacity, data.sampler, seed, **how)


def _wait_for(folder: Path) -> None:
    """Give a process that was killed the time to let go of its files."""
    until = time.monotonic() + LET_GO
    while in_use(folder) and time.monotonic() < until:
        time.sleep(0.1)


def build_learner(config: Config, spaces: Spaces, fabric: Fabric, has_shard: bool = False) -> Learner:
    """The learner of one rank."""
    return Learner(config, spaces, fabric, has_shard)


class MeetingPoint(ClusterEnvironment):
    """Tells Fabric where ranks meet that someone else has started, each as if on a node of its own."""

    def __init__(self, rank: int, world: int, host: str, port: int) -> None:
        self._rank, self._world, self._host, self._port = rank, world, host, port

    @property
    def creates_processes_externally(self) -> bool:
        """Fabric must not start processes."""
        return True

    @property
    def main_address(self) -> str:
        """Host of rank 0."""
        return self._host

    @property
    def main_port(self) -> int:
        """Port on that host."""
        return self._port

    @staticmethod
    def detect() -> bool:
        """Never chosen by itself."""
        return False

    def world_size(self) -> int:
        """Ranks."""
        return self._world

    def set_world_size(self, size: int) -> None:
        """Fixed from the start."""

    def global_rank(self) -> int:
        """The number of this rank."""
        return self._rank

    def set_global_rank(self, rank: int) -> None:
        """Fixed from the start."""

    def local_rank(self) -> int:
        """Every rank has the devices that its actor was given to itself."""
        return 0

    def node_rank(self) -> int:
        """Every rank counts as a node."""
        return self._rank


def open_port(host: str) -> TCPStore:
    """Listen where the ranks will meet, on a port that the system chooses.

    Torch's process group finds this server, as it is of its own process, and uses it: the port can't be taken by
    somebody else between its choice and its use.
    """
    return TCPStore(host, 0, is_master=True, wait_for_workers=False, multi_tenant=True)


def ray_fabric(config: Config, rank: int, world: int, host: str, port: int) -> Fabric:
    """Fabric for one rank of a group whose processes are Ray actors, launched."""
    _quiet()
    trainer = config.trainer
    settings: dict[str, Any] = {"accelerator": trainer.accelerator, "devices": 1, "precision": trainer.precision}
    if world > 1:
        meeting = MeetingPoint(rank, world, host, port)
        settings |= {"num_nodes": world, "strategy": _strategy(config, world), "plugins": [meeting]}
    fabric = Fabric(**settings)
    fabric.launch()
    return fabric


def local_fabric(config: Config) -> Fabric:
    """Fabric in coupled mode, launched: with several devices it starts the other ranks by running the program again.

    Under Lightning's own `fabric run` the ranks are there already, as many as that was told.
    """
    _quiet()
    trainer = config.trainer
    if "LT_CLI_USED" in os.environ:
        return Fabric(precision=trainer.precision)
    fabric = Fabric(
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        strategy=_strategy(config, trainer.devices),
        precision=trainer.precision,
    )
    fabric.launch()
    return fabric


def _strategy(config: Config, world: int) -> str:
    """Fabric's strategy; left to itself, it would choose one that forks."""
    return "ddp" if config.trainer.strategy == "auto" and world > 1 else config.trainer.strategy


def _quiet() -> None:
    """Silence what Lightning says about itself and about what the user can't change."""
    for name in ("lightning.fabric", "lightning.pytorch", "lightning_fabric", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
