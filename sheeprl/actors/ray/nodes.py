"""Check the nodes of a joined cluster: the packages of each, and access to the storage of checkpoints.

The check runs as a task on the node itself. It reports a bad node by its name, and the run uses the others.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sheeprl.utils.errors import one_line

PACKAGES = ("torch", "numpy", "gymnasium", "tensordict", "lightning-fabric")
MODULES = ("sheeprl", "torch", "numpy", "gymnasium", "tensordict", "lightning_fabric")
CHECK_SECONDS = 50.0  # for one node; the whole start then reports a problem within a minute
NODE_ID = "ray.io/node-id"  # label that Ray gives to every node


@dataclass(frozen=True)
class Marker:
    """A small file in the storage of checkpoints, which the driver has written.

    Args:
        place: its path or URL.
        content: its content.
    """

    place: str
    content: str


@dataclass(frozen=True)
class NodeReport:
    """Result of the check of a node.

    Args:
        node: id of the node.
        address: its address, as Ray lists it.
        mistakes: reasons why actors of the run can't work there.
        unseen: reason why the node can't read the marker, None if it can or if there is no marker.
    """

    node: str
    address: str
    mistakes: Sequence[str] = ()
    unseen: str | None = None


def versions() -> dict[str, str]:
    """Return the versions of the packages that must agree between the driver and a node."""
    from sheeprl.version import __version__

    found = {"sheeprl": __version__}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def why_unseen(marker: Marker | None) -> str | None:
    """Return why this process can't read the marker, None if it can."""
    if marker is None:
        return None
    try:
        if "://" in marker.place:
            from sheeprl.utils.objects import Objects

            folder, _, name = marker.place.rpartition("/")
            content = Objects(folder).read(name).decode()
        else:
            content = Path(marker.place).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        return one_line(error)
    return None if content == marker.content else f"{marker.place} is another file there"


def _make_check() -> Callable[..., tuple[list[str], str | None]]:
    """Return the function that checks a node. Ray sends a nested function by value, also to a node without SheepRL."""

    def check(wanted: dict[str, str], modules: Sequence[str], marker: Any) -> tuple[list[str], str | None]:
        """Return the mistakes of this node, and the reason why it can't read the marker."""
        import importlib.util

        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if missing:
            return [f"it has no module {', '.join(missing)}"], None
        from sheeprl.actors.ray import nodes

        found = nodes.versions()
        mistakes = [
            f"it has {name} {found.get(name, 'not at all')}, but the driver has {version}"
            for name, version in wanted.items()
            if found.get(name) != version
        ]
        return mistakes, nodes.why_unseen(nodes.Marker(*marker) if marker else None)

    return check


def env_modules(env_id: str) -> list[str]:
    """Return the top-level modules of an environment: of `module:Id`, and of its entry point if Gymnasium knows it."""
    import gymnasium

    named, _, name = env_id.rpartition(":")
    modules = [named] if named else []
    with suppress(Exception):  # an environment of another family has no entry point
        entry = gymnasium.spec(name).entry_point
        if isinstance(entry, str):
            modules.append(entry.partition(":")[0])
    return list(dict.fromkeys(module.partition(".")[0] for module in modules))


def check_nodes(
    nodes: Sequence[Mapping[str, Any]], modules: Sequence[str], marker: Marker | None, seconds: float = CHECK_SECONDS
) -> list[NodeReport]:
    """Check several nodes at once; blocks until all have answered.

    Args:
        nodes: entries of `ray.nodes()`.
        modules: modules of the environment, besides those of SheepRL.
        marker: file that shards must be able to read; None if they needn't.
        seconds: time for the nodes to answer.
    """
    here = [module for module in (*MODULES, *modules) if importlib.util.find_spec(module) is not None]
    sent = (marker.place, marker.content) if marker else None
    tasks = []
    for node in nodes:
        where = NodeAffinitySchedulingStrategy(str(node["NodeID"]), soft=False)
        options: dict[str, Any] = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": where}
        tasks.append(ray.remote(**options)(_make_check()).remote(versions(), here, sent))
    ready = set(ray.wait(tasks, num_returns=len(tasks), timeout=seconds)[0]) if tasks else set()
    reports = []
    for node, task in zip(nodes, tasks, strict=True):
        name, address = str(node["NodeID"]), str(node["NodeManagerAddress"])
        if task not in ready:
            ray.cancel(task, force=True)
            reports.append(NodeReport(name, address, [f"it did not answer within {seconds:g} s"]))
            continue
        try:
            reports.append(NodeReport(name, address, *ray.get(task)))
        except Exception as error:  # the node was lost, or an import fails there
            reports.append(NodeReport(name, address, [one_line(error)]))
    return reports
