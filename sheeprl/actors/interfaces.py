"""Interfaces of the workers: the methods that handles call, with the types of their arguments and results.

The driver names a method by its interface, as in `handle.call(ReplayInterface.status)`. So the type checker sees every
call, and the driver imports none of torch, lightning and tensordict. The workers inherit from their interface, so the
type checker compares the signatures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sheeprl.actors.evaluation import Evaluation
    from sheeprl.actors.messages import BufferStatus, Fragment, FragmentInfo, UpdateInfo, Writes
    from sheeprl.algos.base import Mode
    from sheeprl.buffer.memmap import Array
    from sheeprl.buffer.storage import Rows

Block = Any
"""Sampled batches on the way from the replay to the learner: `Rows`, or `Packed` between processes.

The driver passes them on and never opens them.
"""


class PlayerInterface(ABC):
    """Methods of a player. `sheeprl.actors.player.Player` documents them."""

    @abstractmethod
    def collect(
        self,
        rows: int,
        weights: Rows | None,
        version: int,
        mode: Mode,
        progress: float = 0.0,
        keep_state: bool = False,
        unsaved: str | None = None,
        env_values: dict[str, Any] | None = None,
    ) -> tuple[FragmentInfo, Fragment]:
        """Collect a fragment of `rows` time steps with the given policy weights."""

    @abstractmethod
    def state(self) -> bytes:
        """Return the state of the player without the policy weights."""

    @abstractmethod
    def load(self, data: bytes) -> bool:
        """Restore a state; return False if the environments can't be restored."""

    @abstractmethod
    def evaluate(self, weights: Rows, episodes: int, env_values: dict[str, Any] | None = None) -> Evaluation:
        """Play greedy episodes on separate environments."""


CollectRequest = tuple[int, bool, str | None, dict[str, Any] | None]
"""Number of a player, and the arguments `keep_state`, `unsaved` and `env_values` of its `collect`."""


class HostInterface(ABC):
    """Methods of a host: a process that holds players. `sheeprl.actors.host.Host` documents them."""

    @abstractmethod
    def assign(self, number: int, incarnation: int) -> None:
        """Hold player `number` in its `incarnation`."""

    @abstractmethod
    def release(self, number: int) -> None:
        """Close a player."""

    @abstractmethod
    def collect(
        self,
        requests: Sequence[CollectRequest],
        rows: int,
        weights: Rows | None,
        version: int,
        mode: Mode,
        progress: float,
    ) -> tuple[Any, ...]:
        """Collect a fragment from each of several players."""

    @abstractmethod
    def call_player(self, number: int, method: str, *args: Any) -> Any:
        """Call a method of one player."""

    @abstractmethod
    def node(self) -> str:
        """Return the id of the node that the process runs on."""


class ReplayInterface(ABC):
    """Methods of a replay shard. `sheeprl.actors.replay.Replay` documents them."""

    @abstractmethod
    def add(self, fragment: Fragment, batch: int | None = None, place: int = 0) -> BufferStatus:
        """Add a fragment, unless an earlier one of its batch is missing."""

    @abstractmethod
    def status(self) -> BufferStatus:
        """Return the shard's status."""

    @abstractmethod
    def sample(self, n_batches: int, progress: float) -> tuple[int, Block]:
        """Sample batches; return the number of samples and the block."""

    @abstractmethod
    def sample_part(self, count: int, progress: float) -> tuple[int, Block]:
        """Sample this shard's part of batches that several shards fill."""

    @abstractmethod
    def write_back(self, *writes: Writes) -> BufferStatus:
        """Write values and priorities into sampled rows, one argument per rank."""

    @abstractmethod
    def save(self, folder: str) -> BufferStatus:
        """Save the shard below `folder`."""

    @abstractmethod
    def load(self, folder: str) -> BufferStatus:
        """Load the shard's rows from a saved replay."""

    @abstractmethod
    def add_initial(self, folder: str) -> BufferStatus:
        """Add the rows that another run has saved, unless the shard has rows of players."""

    @abstractmethod
    def restore(self, folder: str | None, initial: str | None = None) -> BufferStatus:
        """Restore the rows of a lost shard from its files, from a checkpoint or from another run."""


class LearnerInterface(ABC):
    """Methods of a learner, or of a group of learners. `sheeprl.actors.learner.Learner` documents them."""

    @abstractmethod
    def update(self, steps: int, progress: float, order: int | None, *blocks: Block) -> tuple[UpdateInfo, Writes]:
        """Take `steps` gradient steps."""

    @abstractmethod
    def weights(self) -> tuple[int, Rows]:
        """Return the number of gradient steps and the policy weights."""

    @abstractmethod
    def warm_up(self) -> None:
        """Compile the gradient step on dummy data."""

    @abstractmethod
    def snapshot(self) -> tuple[int, Array | None]:
        """Return the number of gradient steps and the learner's state, which only rank 0 returns."""

    @abstractmethod
    def restore(self, data: Array) -> int:
        """Restore a snapshot; return its number of gradient steps."""
