"""Environment variables that make a process a rank of a group, and those that only were left in the environment.

A rank is started by the first rank of its run or by Lightning's `fabric run`. The variables of other launchers, such as
torchrun or a rank that starts a program, don't concern the run. Torch and Lightning would wait for other ranks because
of them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from sheeprl.utils.errors import ConfigError

STARTED_BY = "SHEEPRL_RANKS_OF"  # process id of the first rank, for the ranks that it starts
NAMES = {
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "STANDALONE_PORT", STARTED_BY),
}
PREFIXES = ("TORCHELASTIC_", "LT_")


def started_by_fabric() -> bool:
    """Return True if `fabric run` started this process. It uses torchrun."""
    return "LT_CLI_USED" in os.environ and "TORCHELASTIC_RUN_ID" in os.environ


def started_by_first_rank() -> bool:
    """Return True if the first rank of a run started this process as another rank."""
    return os.environ.get(STARTED_BY) == str(os.getppid())


def local_rank() -> int:
    """Return the rank of this process, 0 if it isn't one of several."""
    is_rank = started_by_fabric() or started_by_first_rank()
    return int(os.environ.get("LOCAL_RANK", "0")) if is_rank else 0


def world_size_of_fabric() -> int | None:
    """Return the number of ranks that `fabric run` started, None if this process started differently."""
    return int(os.environ.get("WORLD_SIZE", "1")) if started_by_fabric() else None


@contextlib.contextmanager
def only_own() -> Iterator[None]:
    """Hide the variables that don't concern the run within the block.

    Raises:
        ConfigError: torchrun started this program several times.
    """
    before = {name: value for name, value in os.environ.items() if _concerns_ranks(name)}
    if not started_by_fabric() and not started_by_first_rank():
        ranks = os.environ.get("WORLD_SIZE", "1")
        if "TORCHELASTIC_RUN_ID" in os.environ and ranks != "1":
            raise ConfigError(
                [
                    f"WORLD_SIZE={ranks}: torchrun started this program {ranks} times, but a run starts its ranks "
                    f"itself; use trainer.devices={ranks} without torchrun (or unset TORCHELASTIC_RUN_ID)"
                ]
            )
        remove()
    try:
        yield
    finally:
        remove()  # Lightning sets some, which concern no later run
        os.environ.update(before)


def remove() -> None:
    """Remove the variables from the environment of this process."""
    for name in [name for name in os.environ if _concerns_ranks(name)]:
        del os.environ[name]


def _concerns_ranks(name: str) -> bool:
    """Return whether a variable makes a process a rank."""
    return name in NAMES or name.startswith(PREFIXES)
