"""What Ray runs: players, buffer and trainers in processes of their own. Each method hands over to a plain object.

Imports are late: this module is loaded by the driver, which needs none of torch, lightning and tensordict.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from sheeprl.actors.messages import BufferStatus, Fragment, FragmentInfo, UpdateInfo, Writes
from sheeprl.actors.ray.standby import run_at_idle_priority
from sheeprl.buffer.block import Packed, pack
from sheeprl.buffer.memmap import Array
from sheeprl.buffer.storage import Rows
from sheeprl.config.schema import Config
from sheeprl.envs.transforms import Spaces
from sheeprl.utils.gc_control import importing

if TYPE_CHECKING:
    from sheeprl.actors.evaluation import Evaluation
    from sheeprl.actors.player import Player


class PlayerActor:
    """A `Player`, once `assign` has told which."""

    def __init__(self, config: Config, spaces: Spaces, in_reserve: bool = False) -> None:
        self.config, self.spaces = config, spaces
        if in_reserve:
            run_at_idle_priority(_import_player)
        else:
            _import_player()

    def assign(self, number: int, incarnation: int, video_folder: str | None) -> None:
        """Be that player from now on. If it can't be made, who asks it for something hears why."""
        self.who = (number, incarnation, video_folder)

    @cached_property
    def player(self) -> Player:
        """Made when it is first needed."""
        from sheeprl.actors.player import Player

        return Player(self.config, self.spaces, *self.who, alone=True)

    def node(self) -> str:
        """Where the actor is; it answers once it has started."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def collect(self, *args: Any) -> tuple[FragmentInfo, Fragment]:
        """`Player.collect`."""
        return self.player.collect(*args)

    def state(self) -> bytes:
        """`Player.state`."""
        return self.player.state()

    def load(self, data: bytes) -> bool:
        """`Player.load`."""
        return self.player.load(data)

    def evaluate(self, weights: Rows, episodes: int) -> Evaluation:
        """`Player.evaluate`."""
        return self.player.evaluate(weights, episodes)


def _import_player() -> None:
    """What takes most of the time until a process can be a player."""
    with importing():
        import sheeprl.actors.player  # noqa: F401


class ReplayActor:
    """A `Replay`: one shard of the run's."""

    def __init__(self, config: Config, shard: int, incarnation: int, folder: str | None) -> None:
        from sheeprl.actors.replay import build_replay

        self.replay = build_replay(config, shard, config.buffer.shards, incarnation, folder)

    def add(self, fragment: Fragment) -> BufferStatus:
        """`Replay.add`."""
        return self.replay.add(fragment)

    def status(self) -> BufferStatus:
        """`Replay.status`."""
        return self.replay.status()

    def sample(self, n_batches: int, progress: float) -> tuple[int, Packed]:
        """`Replay.sample`."""
        samples, rows = self.replay.sample(n_batches, progress)
        return samples, pack(rows)

    def sample_part(self, count: int, progress: float) -> tuple[int, Packed]:
        """`Replay.sample_part`."""
        samples, rows = self.replay.sample_part(count, progress)
        return samples, pack(rows)

    def write_back(self, *writes: Writes) -> BufferStatus:
        """`Replay.write_back`."""
        return self.replay.write_back(*writes)

    def save(self, folder: str) -> BufferStatus:
        """`Replay.save`."""
        return self.replay.save(folder)

    def load(self, folder: str) -> BufferStatus:
        """`Replay.load`."""
        return self.replay.load(folder)

    def restore(self, folder: str | None) -> BufferStatus:
        """`Replay.restore`."""
        return self.replay.restore(folder)


class TrainerActor:
    """A rank of the trainer group: a `Learner`, once `join` was called."""

    def __init__(self, config: Config, spaces: Spaces, rank: int, world: int) -> None:
        self.config, self.spaces, self.rank, self.world = config, spaces, rank, world

    def address(self) -> tuple[str, int]:
        """Where the ranks can meet: this node, and a port that is this process's from now on."""
        import ray

        with importing():
            from sheeprl.actors.fabric import open_port

        host = ray.util.get_node_ip_address()
        if self.world == 1:
            return host, 0  # nobody else comes
        self.store = open_port(host)
        return host, self.store.port

    def join(self, host: str, port: int) -> None:
        """Meet the other ranks and build the learner."""
        with importing():
            from sheeprl.actors.fabric import build_learner, ray_fabric

        fabric = ray_fabric(self.config, self.rank, self.world, host, port)
        self.learner = build_learner(self.config, self.spaces, fabric)

    def update(self, steps: int, progress: float, order: int | None, *blocks: Packed) -> tuple[UpdateInfo, Writes]:
        """`Learner.update`."""
        return self.learner.update(steps, progress, order, *(block.unpack() for block in blocks))

    def weights(self) -> tuple[int, Rows]:
        """`Learner.weights`, which Ray copies into its store before the next call is carried out.

        Only the first rank's are passed on.
        """
        return (self.learner.gradient_steps, {}) if self.rank else self.learner.weights(copy=False)

    def warm_up(self) -> None:
        """`Learner.warm_up`."""
        self.learner.warm_up()

    def snapshot(self) -> tuple[int, Array | None]:
        """`Learner.snapshot`."""
        return self.learner.snapshot()

    def restore(self, data: Array) -> int:
        """`Learner.restore`."""
        return self.learner.restore(data)
