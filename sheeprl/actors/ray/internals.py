"""What is used of Ray that has no public name, and for which Ray has no public way: in one place, for upgrades."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TOLD_BY_THE_RUN = ("A worker died or was killed", "Raylet is terminated", "The node with node id")  # Ray's words


def leave_losses_to_the_run() -> None:
    """Don't let Ray print a page for every process or node that dies: the run says in a line who was lost."""
    from ray._private import worker

    show: Callable[..., None] = worker.print_to_stdstream

    def show_the_rest(data: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        lines = [line for line in data.get("lines", ()) if not str(line).startswith(TOLD_BY_THE_RUN)]
        if lines:
            show({**data, "lines": lines}, *args, **kwargs)

    worker.print_to_stdstream = show_the_rest


def services() -> list[Any]:
    """Ray's own processes that were started with this program's `ray.init`."""
    from ray._private import worker

    started: dict[str, list[Any]] = worker._global_node.all_processes if worker._global_node else {}
    return [info.process for infos in started.values() for info in infos]


def draining_nodes() -> set[str]:
    """Ids of the nodes that are going to be taken away; none where this version of Ray can't tell."""
    try:
        from ray._private.state import state

        return set(state.get_draining_nodes())
    except (ImportError, AttributeError):
        return set()
