"""Build the Fabric of a run and its learner."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from sheeprl.actors.learner import Learner
from sheeprl.config.schema import Config
from sheeprl.envs.transforms import Spaces
from sheeprl.utils import rank_variables


def build_learner(config: Config, spaces: Spaces, fabric: Fabric, has_shard: bool = False) -> Learner:
    """Return the learner of one rank."""
    return Learner(config, spaces, fabric, has_shard)


class ActorClusterEnvironment(ClusterEnvironment):
    """Cluster environment for ranks that run in Ray actors. Each rank counts as a node.

    Args:
        rank: number of this rank.
        world: number of ranks.
        host: host of rank 0.
        port: port on that host, where the ranks meet.
    """

    def __init__(self, rank: int, world: int, host: str, port: int) -> None:
        """Store the rank and the address of rank 0."""
        self._rank, self._world, self._host, self._port = rank, world, host, port

    @property
    def creates_processes_externally(self) -> bool:
        """True: Fabric must not start processes."""
        return True

    @property
    def main_address(self) -> str:
        """Host of rank 0."""
        return self._host

    @property
    def main_port(self) -> int:
        """Port on the host of rank 0."""
        return self._port

    @staticmethod
    def detect() -> bool:
        """Return False: Fabric must not choose this environment by itself."""
        return False

    def world_size(self) -> int:
        """Return the number of ranks."""
        return self._world

    def set_world_size(self, size: int) -> None:
        """Do nothing: the number of ranks is fixed."""

    def global_rank(self) -> int:
        """Return the number of this rank."""
        return self._rank

    def set_global_rank(self, rank: int) -> None:
        """Do nothing: the rank is fixed."""

    def local_rank(self) -> int:
        """Return 0: a rank sees only the devices of its actor."""
        return 0

    def node_rank(self) -> int:
        """Return the rank: each rank counts as a node."""
        return self._rank


def open_port(host: str) -> TCPStore:
    """Listen for the ranks on a port that the system chooses.

    Torch's process group reuses a server of the same process. So no other process can take the port between its choice
    and its use.
    """
    return TCPStore(host, 0, is_master=True, wait_for_workers=False, multi_tenant=True)


def ray_fabric(config: Config, rank: int, world: int, host: str, port: int) -> Fabric:
    """Launch and return the Fabric of one rank of a group of Ray actors."""
    _quiet()
    trainer = config.trainer
    rank_variables.remove()  # the cluster may have been started where other ranks' variables are set
    meeting = ActorClusterEnvironment(rank, world, host, port)
    settings: dict[str, Any] = {"accelerator": trainer.accelerator, "devices": 1, "precision": trainer.precision}
    if world > 1:
        settings |= {"num_nodes": world, "strategy": _strategy(config, world)}
    fabric = Fabric(**settings, plugins=[meeting])  # Fabric would look for Slurm, torchrun and others
    fabric.launch()
    return fabric


def local_fabric(config: Config) -> Fabric:
    """Launch and return the Fabric of coupled mode.

    With several devices, Fabric starts the other ranks by running the program again. Under Lightning's `fabric run` the
    ranks already exist, and the command line of `fabric run` determines their number.
    """
    _quiet()
    trainer = config.trainer
    if rank_variables.started_by_fabric():
        return Fabric(precision=trainer.precision)
    if not rank_variables.started_by_first_rank():
        os.environ[rank_variables.STARTED_BY] = str(os.getpid())
    fabric = Fabric(
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        strategy=_strategy(config, trainer.devices),
        precision=trainer.precision,
        plugins=[LightningEnvironment()],  # Fabric would look for Slurm and others
    )
    fabric.launch()
    return fabric


def signal_ranks(fabric: Fabric, number: int) -> None:
    """Send a signal to the processes that this process started as the other ranks."""
    launcher = getattr(fabric.strategy, "launcher", None)
    for process in getattr(launcher, "procs", ()):
        process.send_signal(number)


def _strategy(config: Config, world: int) -> str:
    """Return Fabric's strategy. For several devices, Fabric's default would be a strategy that forks."""
    return "ddp" if config.trainer.strategy == "auto" and world > 1 else config.trainer.strategy


def _quiet() -> None:
    """Silence Lightning's messages about itself and its warnings about things that the user can't change."""
    for name in ("lightning.fabric", "lightning.pytorch", "lightning_fabric", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
