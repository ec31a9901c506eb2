"""Uses of Ray's private API that have no public equivalent, in one module so that upgrades are easy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

from ray.exceptions import RayActorError

from sheeprl.utils.output import without_native_output

NODE_GROUP = "ray.io/node-group"  # label of a node that an autoscaler started
NODE_DIED = "node has died"  # in the message of an actor that was lost with its node
AUTH_FAILED = "AuthToken"  # in the message of a control store that refuses a token
START_TIMED_OUT = "timed out during startup"  # in the message of the plain Exception that Ray raises
REPORTED_LOSSES = (
    "A worker died or was killed",
    "Raylet is terminated",
    "The node with node id",
)  # prefixes of Ray's messages


def leave_losses_to_the_run() -> None:
    """Suppress Ray's messages about lost processes and nodes, since the run logs each loss in one line."""
    from ray._private import worker

    show: Callable[..., None] = worker.print_to_stdstream

    def show_the_rest(data: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Print the lines that don't report a loss."""
        lines = [line for line in data.get("lines", ()) if not str(line).startswith(REPORTED_LOSSES)]
        if lines:
            show({**data, "lines": lines}, *args, **kwargs)

    worker.print_to_stdstream = show_the_rest


@contextmanager
def apart_from_signals() -> Iterator[None]:
    """Start Ray within the block so that only the driver handles signals.

    Ray's processes start in sessions of their own, since a scheduler or a terminal signals the whole process group and
    they would end before the driver has saved a checkpoint. Ray doesn't replace the driver's handler of SIGTERM.
    """
    private: Any = import_module("ray._private")
    services, utils = private.services, private.utils
    popen, set_handler = services.ConsolePopen, utils.set_sigterm_handler
    services.ConsolePopen = partial(popen, start_new_session=True)
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        services.ConsolePopen, utils.set_sigterm_handler = popen, set_handler


IDLE_SERVICES = ("start_api_server", "start_monitor", "start_log_monitor")
"""Methods of Ray's node that start what a run's own Ray doesn't use: the dashboard, the autoscaler, the log reader."""


@contextmanager
def without_idle_services() -> Iterator[None]:
    """Start Ray within the block without the services that a single node without log forwarding doesn't use.

    `ray.init` waits for the dashboard's server, and each of the three takes about a second of CPU time.
    """
    node: Any = import_module("ray._private.node").Node
    before = {name: getattr(node, name) for name in IDLE_SERVICES if hasattr(node, name)}
    for name in before:
        setattr(node, name, lambda self, **settings: None)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(node, name, method)


def services() -> list[Any]:
    """Return the Ray service processes that this program's `ray.init` started."""
    from ray._private import worker

    started: dict[str, list[Any]] = worker._global_node.all_processes if worker._global_node else {}
    return [info.process for infos in started.values() for info in infos]


def node_socket() -> str:
    """Return the path of the socket of this machine's node process, "" if this program isn't connected to one."""
    from ray._private import worker

    return str(worker._global_node.raylet_socket_name) if worker._global_node else ""


def died_with_node(error: RayActorError) -> bool:
    """Return True if an actor was lost because its node was lost or preempted."""
    return error.preempted or NODE_DIED in str(error)


def store_value(namespace: str, key: str, value: str) -> None:
    """Store a value in the cluster's control store; this program must be connected."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(key, value, True, namespace=namespace)


def remove_value(namespace: str, key: str) -> None:
    """Remove a value from the cluster's control store; this program must be connected."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_del(key, namespace=namespace)


def stored_values(namespace: str) -> dict[str, bytes]:
    """Return the values of a namespace in the control store of the cluster to which this program is connected."""
    internal_kv: Any = import_module("ray.experimental.internal_kv")
    return _values(internal_kv.internal_kv_get_gcs_client(), namespace)


def cluster_contents(address: str, namespace: str) -> tuple[dict[str, bytes], set[str]]:
    """Return the values of a namespace in a cluster's control store, and the ids of the cluster's live jobs.

    It reads the control store without joining the cluster, which would take seconds and add a job.
    """
    raylet: Any = import_module("ray._raylet")
    client = raylet.GcsClient(address=address)
    # Without these fields, the control store would ask each driver for its tasks.
    jobs = client.get_all_job_info(skip_submission_job_info_field=True, skip_is_running_tasks_field=True)
    return _values(client, namespace), {job.hex() for job, info in jobs.items() if not info.is_dead}


def refuses_token(address: str) -> bool:
    """Return True if a cluster refuses the token of this shell; Ray itself would repeat its attempts for 20 seconds."""
    raylet: Any = import_module("ray._raylet")
    try:
        with without_native_output():
            raylet.GcsClient(address=address).internal_kv_keys(b"", b"")
    except Exception as error:  # Ray's own, of several kinds; joining the cluster reports the others
        return AUTH_FAILED in str(error)
    return False


def _values(client: Any, namespace: str) -> dict[str, bytes]:
    """Return the values of a namespace. A key may be removed while they are read."""
    space = namespace.encode()
    found = {key.decode(): client.internal_kv_get(key, space) for key in client.internal_kv_keys(b"", space)}
    return {key: value for key, value in found.items() if value is not None}


def running_cluster(address: str) -> str:
    """Return the address of a cluster as host and port; `auto` stands for the one on this machine.

    Raises:
        ConnectionError: no cluster runs on this machine.
        ValueError: the address is malformed.
    """
    services: Any = import_module("ray._private.services")
    return str(services.canonicalize_bootstrap_address(address))


def draining_nodes() -> set[str]:
    """Return the ids of the nodes that are being drained; empty if this Ray version has no such state.

    Blocks while the control store doesn't answer, and then raises.
    """
    try:
        from ray._private.state import state

        query = state.get_draining_nodes
    except (ImportError, AttributeError):
        return set()
    return set(query())


def free_resources() -> dict[str, dict[str, float]]:
    """Return the free resources of each live node, by its id."""
    state: Any = import_module("ray._private.state")
    return {node: dict(resources) for node, resources in state.available_resources_per_node().items()}


def is_autoscaled() -> bool:
    """Return True if an autoscaler manages the cluster, which may then add nodes that don't exist yet."""
    ray: Any = import_module("ray")
    from ray.experimental import internal_kv

    if any(node["Alive"] and NODE_GROUP in node.get("Labels", {}) for node in ray.nodes()):
        return True  # set by the second version of the autoscaler, by the cluster launcher and by KubeRay
    status = internal_kv._internal_kv_get("__autoscaling_status")
    report = json.loads(status).get("autoscaler_report", {}) if status else {}
    # Without an autoscaler, Ray's monitor reports each node as a type of its own, named by its id.
    return any(not name.startswith("node_") for name in report.get("active_nodes", {}))
