"""Join or start a Ray cluster."""

from __future__ import annotations

import logging
import math
import os
import socket
import warnings
from contextlib import nullcontext, suppress
from typing import Any

import psutil
import ray

from sheeprl.actors.ray import environment, internals
from sheeprl.actors.ray.waiting import ClusterError
from sheeprl.config.defaults import cluster_address
from sheeprl.config.schema import Config

VITAL = {
    "raylet": "Ray's node process",
    "gcs_server": "Ray's control service",
    **{name[:15]: "an agent of Ray's node process" for name in ("DashboardAgent", "RuntimeEnvAgent")},
}
RANK_CPUS = 1  # requested per rank, which may use more threads: a run then fits a two-core machine


def connect(config: Config) -> bool:
    """Join the cluster named by `ray.address` or RAY_ADDRESS, or the cluster of this job; else start a local Ray.

    If the program has called `ray.init`, its connection is used.

    Returns:
        True if this call connected; `disconnect` ends the connection.

    Raises:
        ClusterError: the named cluster can't be reached, or a local Ray can't be started.
    """
    # CPUs are logical: on a small machine, actors share cores.
    processes = config.players.spares + config.most_hosts - config.least_hosts  # besides those that a run requires
    requested = requested_resources(config)["CPU"] + processes * player_resources(config)["CPU"]
    return join_or_start(
        cluster_address(config),
        environment.source(config),
        max(os.cpu_count() or 1, math.ceil(requested)),
        "use run.mode=coupled, which trains without Ray",
        config.ray.runtime_env,
        config.log.level == "debug",
    )


def join_or_start(
    address: str | None,
    source: str,
    cpus: int,
    advice: str,
    runtime_env: dict[str, Any] | None = None,
    verbose: bool = False,
) -> bool:
    """Join a cluster or start a local Ray.

    Args:
        address: address of the cluster; None to start a local Ray.
        source: setting or variable that names the address.
        cpus: cores that a local Ray offers.
        advice: what to do if a local Ray can't be started.
        runtime_env: Ray's settings of the worker processes.
        verbose: show Ray's messages and those of the workers.

    Returns:
        True if this call connected; False if the program has called `ray.init`, whose connection is used then.

    Raises:
        ClusterError: the cluster can't be joined, or Ray can't be started.
    """
    if ray.is_initialized():
        return False
    if not verbose:
        internals.leave_losses_to_the_run()
    if address:
        _check_access(address, source)
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    local = {"num_cpus": cpus, "include_dashboard": False}
    try:
        with internals.apart_from_signals(), nullcontext() if address or verbose else internals.without_idle_services():
            # "local": a cluster on this machine is joined only if it is named.
            options: dict[str, Any] = {"address": address} if address else {"address": "local", **local}
            if runtime_env:
                options["runtime_env"] = runtime_env
            ray.init(**options, log_to_driver=verbose, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises a plain Exception if its processes don't start in time
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if not address:
            raise ClusterError(_why_not_started(reason, advice)) from error
        token = environment.token_advice()
        raise ClusterError(
            f"{source}={address}: the Ray cluster can't be joined: {reason}; start it{environment.or_local(source)}"
            f"{token}"
        ) from error
    return True


def _why_not_started(reason: str, advice: str) -> str:
    """Return the message for a local Ray that can't be started, from the first line of Ray's message."""
    logs = f"Ray's logs are in {environment.log_folder()}"
    if internals.START_TIMED_OUT in reason:
        return (
            "Ray can't be started: its processes were not up in time, usually because the machine is busy or short of "
            f"memory; try again when the machine has room, or {advice}; {logs}"
        )
    return f"Ray can't be started: {reason}; {logs}; {advice}"


def _check_access(address: str, source: str) -> None:
    """Check the cluster's port and the token, since Ray needs long to report that they are wrong.

    Raises:
        ClusterError: no process listens at the address, or the cluster refuses the token.
    """
    host, _, port = address.rpartition(":")
    if "/" in address or not port.isdigit():  # ray:// and auto are Ray's to resolve
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ClusterError(
            f"{source}={address}: the Ray cluster can't be joined: {error}; start it or correct the address"
            f"{environment.or_local(source)}"
        ) from error
    if internals.refuses_token(address):
        raise ClusterError(
            f"{source}={address}: refuses the token of this shell; {environment.SET_TOKEN}"
            f"{environment.or_local(source)}"
        )


def disconnect() -> None:
    """Disconnect from the cluster; a local Ray ends."""
    ray.shutdown()


def service_pids() -> list[int]:
    """Return the ids of the service processes of a Ray that `connect` started, none if it joined a cluster."""
    return [process.pid for process in internals.services()]


def vital_services() -> dict[str, int]:
    """Return the ids of this machine's Ray processes without which the run dies, by description.

    In a joined cluster, it is the node process of this machine.
    """
    found = {}
    for pid in service_pids():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            for each in (process, *process.children()):
                kind = each.name().removeprefix("ray::")
                if kind in VITAL:
                    found[f"{VITAL[kind]} ({kind})"] = each.pid
    if not found and (socket_name := internals.node_socket()):
        for process in psutil.process_iter(["name", "cmdline"]):
            # The names of other nodes' sockets on this machine begin with the same text.
            words = process.info["cmdline"] or ()
            if process.info["name"] == "raylet" and any(word.endswith(f"={socket_name}") for word in words):
                found[f"{VITAL['raylet']} (raylet)"] = process.pid
    return found


def requested_resources(config: Config) -> dict[str, float]:
    """Return the resources that the actors of a run, with its fewest hosts of players, request from Ray."""
    players, ranks, each = config.least_hosts, config.trainer.ranks, player_resources(config)
    requested = {"CPU": ranks * RANK_CPUS + players * each["CPU"]}
    if gpus := players * each["GPU"] + (ranks if config.trainer.accelerator == "cuda" else 0):
        requested["GPU"] = gpus
    return requested


def player_resources(config: Config) -> dict[str, float]:
    """Return the resources that a player's process requests from Ray."""
    return {"CPU": config.players.cpus, "GPU": config.players.gpus}


def choose_accelerator(config: Config) -> str:
    """Return "cuda" if the cluster has GPUs for all ranks, else "cpu".

    Raises:
        ClusterError: the cluster has too few GPUs now, but its autoscaler may add nodes with GPUs.
    """
    trainer = config.trainer
    with_room = sum(node["Resources"].get("GPU", 0) >= trainer.devices for node in live_nodes())
    if with_room >= trainer.num_nodes:
        return "cuda"
    if not internals.services() and internals.is_autoscaled():
        raise ClusterError(
            "trainer.accelerator=auto: no node with the GPUs is up now, but the cluster's autoscaler may add one; set "
            "trainer.accelerator=cuda to wait for it, or trainer.accelerator=cpu to train without"
        )
    return "cpu"


def live_nodes() -> list[dict[str, Any]]:
    """Return the entries of the live nodes."""
    return [node for node in ray.nodes() if node["Alive"]]
