"""Ray actors: players, replay shards and trainers. Each method delegates to an object that doesn't know Ray.

Heavy imports are inside functions: the driver imports this module without torch, lightning and tensordict.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sheeprl.actors.host import Host
from sheeprl.actors.interfaces import LearnerInterface, ReplayInterface
from sheeprl.actors.messages import BufferStatus, Fragment, UpdateInfo, Writes
from sheeprl.buffer.block import Packed, pack
from sheeprl.buffer.memmap import Array
from sheeprl.buffer.storage import Rows
from sheeprl.config.defaults import Machine, this_machine
from sheeprl.config.schema import Config
from sheeprl.envs.transforms import Spaces
from sheeprl.utils.gc_control import importing

if TYPE_CHECKING:
    from sheeprl.actors.player import Player


class PlayerActor(Host):
    """Runs players: a host of the run."""

    def __init__(self, config: Config, spaces: Spaces, video_folder: str | None = None) -> None:
        """Import the player, so that the first fragment comes without the delay.

        Args:
            config: configuration of the run, resolved.
            spaces: observation and action space of the agent.
            video_folder: folder for videos of player 0.
        """
        super().__init__(self._make_player)
        self.config, self.spaces, self.video_folder = config, spaces, video_folder
        _import_player()

    def _make_player(self, number: int, incarnation: int) -> Player:
        """Make a player. It ends the process after a step that can't be interrupted."""
        from sheeprl.actors.player import Player

        videos = self.video_folder if number == 0 else None
        return Player(self.config, self.spaces, number, incarnation, videos, alone=True)

    def node(self) -> str:
        """Return the id of the node that the actor runs on."""
        import ray

        return str(ray.get_runtime_context().get_node_id())


def _import_player() -> None:
    """Import the player's module, which takes most of the time that a player needs to start."""
    with importing():
        import sheeprl.actors.player  # noqa: F401


class ReplayActor(ReplayInterface):
    """Runs a `Replay`: one shard of the run's replay."""

    def __init__(
        self, config: Config, frame_stack: Mapping[str, int], shard: int, incarnation: int, folder: str | None
    ) -> None:
        """Build the shard."""
        from sheeprl.actors.replay import build_replay

        self.replay = build_replay(config, shard, config.buffer.shards, incarnation, folder, frame_stack)

    def add(self, fragment: Fragment, batch: int | None = None, place: int = 0) -> BufferStatus:
        """Call `Replay.add`."""
        return self.replay.add(fragment, batch, place)

    def status(self) -> BufferStatus:
        """Call `Replay.status`."""
        return self.replay.status()

    def sample(self, n_batches: int, progress: float) -> tuple[int, Packed]:
        """Call `Replay.sample`."""
        samples, rows = self.replay.sample(n_batches, progress)
        return samples, pack(rows)

    def sample_part(self, count: int, progress: float) -> tuple[int, Packed]:
        """Call `Replay.sample_part`."""
        samples, rows = self.replay.sample_part(count, progress)
        return samples, pack(rows)

    def write_back(self, *writes: Writes) -> BufferStatus:
        """Call `Replay.write_back`."""
        return self.replay.write_back(*writes)

    def save(self, folder: str) -> BufferStatus:
        """Call `Replay.save`."""
        return self.replay.save(folder)

    def load(self, folder: str) -> BufferStatus:
        """Call `Replay.load`."""
        return self.replay.load(folder)

    def add_initial(self, folder: str) -> BufferStatus:
        """Call `Replay.add_initial`."""
        return self.replay.add_initial(folder)

    def restore(self, folder: str | None, initial: str | None = None) -> BufferStatus:
        """Call `Replay.restore`."""
        return self.replay.restore(folder, initial)


class TrainerActor(LearnerInterface):
    """Runs a rank of the trainer group: a `Learner`, which `join` builds."""

    def __init__(self, config: Config, spaces: Spaces, rank: int, world: int) -> None:
        """Store the rank; `join` builds the learner."""
        self.config, self.spaces, self.rank, self.world = config, spaces, rank, world

    def address(self) -> tuple[str, int]:
        """Return the host and port of the ranks' rendezvous; this process listens there."""
        import ray

        with importing():
            from sheeprl.actors.fabric import open_port

        host = ray.util.get_node_ip_address()
        if self.world == 1:
            return host, 0  # no other rank connects
        self.store = open_port(host)
        return host, self.store.port

    def machine(self) -> Machine:
        """Return the properties of this machine, which determine defaults of the trainers."""
        return this_machine()

    def join(self, host: str, port: int, config: Config) -> None:
        """Join the process group and build the learner, with the configuration for this machine."""
        self.config = config
        with importing():
            from sheeprl.actors.fabric import build_learner, ray_fabric

        fabric = ray_fabric(self.config, self.rank, self.world, host, port)
        self.learner = build_learner(self.config, self.spaces, fabric)

    def update(self, steps: int, progress: float, order: int | None, *blocks: Packed) -> tuple[UpdateInfo, Writes]:
        """Call `Learner.update`."""
        return self.learner.update(steps, progress, order, *(block.unpack() for block in blocks))

    def weights(self) -> tuple[int, Rows]:
        """Call `Learner.weights` on rank 0; the other ranks return no weights.

        The weights needn't be copied: Ray copies them into its store before it starts the next call.
        """
        return (self.learner.gradient_steps, {}) if self.rank else self.learner.weights(copy=False)

    def warm_up(self) -> None:
        """Call `Learner.warm_up`."""
        self.learner.warm_up()

    def snapshot(self) -> tuple[int, Array | None]:
        """Call `Learner.snapshot`."""
        return self.learner.snapshot()

    def restore(self, data: Array) -> int:
        """Call `Learner.restore`."""
        return self.learner.restore(data)
