"""Join or start a Ray cluster, and place a run's actors on it."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil
import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from sheeprl.actors.handle import Handle, LostError, awaited, consume_exception
from sheeprl.actors.ray import environment, internals
from sheeprl.actors.ray.actors import PlayerActor, ReplayActor, TrainerActor
from sheeprl.actors.ray.handle import GroupHandle, RayHandle
from sheeprl.actors.ray.standby import StandbyPool
from sheeprl.config.defaults import cluster_address
from sheeprl.config.schema import Config
from sheeprl.envs.transforms import Spaces
from sheeprl.utils.text import counted

VITAL = {
    "raylet": "Ray's node process",
    "gcs_server": "Ray's control service",
    **{name[:15]: "an agent of Ray's node process" for name in ("DashboardAgent", "RuntimeEnvAgent")},
}
WARN_AFTER = 3.0  # seconds of waiting before a message names the missing resources
RANK_CPUS = 1  # requested per rank, which may use more threads: a run then fits a two-core machine
Report = Callable[[str], None]


class ClusterError(RuntimeError):
    """Raised when the cluster can't be joined or is too small for the run."""


def connect(config: Config) -> bool:
    """Join the cluster named by `ray.address` or RAY_ADDRESS, or the cluster of this job; else start a local Ray.

    If the program has called `ray.init`, its connection is used.

    Returns:
        True if this call connected; `disconnect` ends the connection.

    Raises:
        ClusterError: the named cluster can't be reached.
    """
    if ray.is_initialized():
        return False
    address = cluster_address(config)
    show = config.log.level == "debug"
    if not show:
        internals.leave_losses_to_the_run()
    if address:
        _check_listening(address, config)
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    # CPUs are logical: on a small machine, actors share cores.
    requested = requested_resources(config)["CPU"] + config.players.spares * player_resources(config)["CPU"]
    local = {"num_cpus": max(os.cpu_count() or 1, math.ceil(requested)), "include_dashboard": False}
    try:
        with internals.apart_from_signals(), nullcontext() if address or show else internals.without_idle_services():
            # "local": a cluster on this machine is joined only if it is named.
            options = {"address": address} if address else {"address": "local", **local}
            ray.init(**options, log_to_driver=show, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises a plain Exception if its processes don't start in time
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if not address:
            raise ClusterError(_why_not_started(reason)) from error
        advice = f"{environment.or_local(config)}{environment.token_advice()}"
        raise ClusterError(
            f"{environment.source(config)}={address}: the Ray cluster can't be joined: {reason}; start it{advice}"
        ) from error
    return True


def _why_not_started(reason: str) -> str:
    """Return the message for a local Ray that can't be started, from the first line of Ray's message."""
    coupled = "run.mode=coupled, which needs no Ray"
    logs = f"Ray's logs are in {environment.log_folder()}"
    if internals.START_TIMED_OUT in reason:
        return (
            "Ray can't be started: its processes were not up in time, usually because the machine is busy or short of "
            f"memory; start the run again when the machine has room, or use {coupled}; {logs}"
        )
    return f"Ray can't be started: {reason}; {logs}; to train without it, use {coupled}"


def _check_listening(address: str, config: Config) -> None:
    """Check the cluster's port, since Ray needs minutes to report that it is closed.

    Raises:
        ClusterError: no process listens at the address.
    """
    host, _, port = address.rpartition(":")
    if "/" in address or not port.isdigit():  # ray:// and auto are Ray's to resolve
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ClusterError(
            f"{environment.source(config)}={address}: the Ray cluster can't be joined: {error}; start it or correct "
            f"the address{environment.or_local(config)}"
        ) from error


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
            if process.info["name"] == "raylet" and any(socket_name in word for word in process.info["cmdline"] or ()):
                found[f"{VITAL['raylet']} (raylet)"] = process.pid
    return found


def requested_resources(config: Config) -> dict[str, float]:
    """Return the resources that a run's actors request from Ray."""
    players, ranks, each = config.players.num or 1, config.trainer.ranks, player_resources(config)
    requested = {"CPU": ranks * RANK_CPUS + players * each["CPU"]}
    if gpus := players * each["GPU"] + (ranks if config.trainer.accelerator == "cuda" else 0):
        requested["GPU"] = gpus
    return requested


def player_resources(config: Config) -> dict[str, float]:
    """Return the resources that a player's process requests from Ray."""
    return {"CPU": config.players.cpus, "GPU": config.players.gpus}


def cuda_available(config: Config) -> bool:
    """Return True if the cluster has a GPU for every rank."""
    return bool(ray.cluster_resources().get("GPU", 0) >= config.trainer.ranks)


@dataclass
class Fleet:
    """The actors of a run.

    Args:
        config: the run's configuration, resolved.
        spaces: observation and action space.
        video_folder: folder for videos of the first player; None records none.
        replay_folder: folder of the memory-mapped replay; None keeps it in memory.
    """

    config: Config
    spaces: Spaces
    video_folder: str | None = None
    replay_folder: str | None = None

    def __post_init__(self) -> None:
        """Reserve the trainers' resources and start the shards."""
        self._free: dict[str, float] = ray.available_resources()
        ranks = self.config.trainer.ranks
        gpus = 1 if self.config.trainer.accelerator == "cuda" else 0
        bundle = {"CPU": RANK_CPUS, **({"GPU": gpus} if gpus else {})}
        # All or nothing: an incomplete trainer group only blocks its resources.
        self.group: PlacementGroup = placement_group([bundle] * ranks, strategy="PACK")
        self.shards = [self._shard(number, 0) for number in range(self.config.buffer.shards)]
        self.learner = self._trainers()
        self._waiting: dict[tuple[int, int], Handle] = {}
        self._nodes: dict[int, asyncio.Task[Any]] = {}  # node of each player
        # Partials without `self`: a reference cycle would keep the actors' handles alive after Ray ends.
        self._make_process = partial(_player_process, self.config, self.spaces)
        has_room = partial(_has_room, self.config, self._nodes)
        self._spares = StandbyPool(self.config.players.spares, self._make_process, has_room, internals.draining_nodes)

    def make_player(self, number: int, incarnation: int) -> Handle:
        """Return the actor of a player; `start` has started the first incarnations."""
        player = self._waiting.pop((number, incarnation), None) or self._player(number, incarnation)
        node = self._nodes[number] = asyncio.ensure_future(awaited(player.call(PlayerActor.node)))
        node.add_done_callback(consume_exception)  # the next call to a lost player raises, too
        return player

    def make_evaluator(self, incarnation: int) -> Handle:
        """Start the actor of a player that only evaluates; its number follows those of the players."""
        # Without a CPU of its own, since a run has to fit the machine with or without evaluations.
        actor = _actor(PlayerActor, num_cpus=0, memory=1)
        evaluator = RayHandle(actor.remote(self.config, self.spaces))
        evaluator.call(PlayerActor.assign, self.config.num_players, incarnation, None)
        return evaluator

    async def players_leaving(self) -> set[int]:
        """Return the players on nodes that are being drained, such as a spot machine before its end."""
        draining = internals.draining_nodes()
        there = {number: node for number, node in self._nodes.items() if node.done() and not node.exception()}
        return {number for number, node in there.items() if node.result() in draining}

    def make_shard(self, number: int, incarnation: int) -> Handle:
        """Start the actor that replaces a shard of the replay."""
        self.shards[number] = self._shard(number, incarnation)
        return self.shards[number]

    def _shard(self, number: int, incarnation: int) -> RayHandle:
        """Start the actor of a shard."""
        # No CPU, since a shard copies in short bursts. One byte of memory, since Ray lets a random node place an actor
        # without resources, and nodes that spread actors independently can put all shards on one node.
        actor = _actor(ReplayActor, num_cpus=0, memory=1, scheduling_strategy="SPREAD")
        return RayHandle(actor.remote(self.config, self.spaces.frame_stack, number, incarnation, self.replay_folder))

    def _player(self, number: int, incarnation: int) -> Handle:
        """Start the actor of a player, or take a standby process once a first player exists."""
        process = self._spares.take() if self._nodes else self._make_process()
        process.call(PlayerActor.assign, number, incarnation, self.video_folder if number == 0 else None)
        return process

    async def make_trainers(self, incarnation: int) -> Handle:
        """Start the trainer group that replaces a lost one.

        Raises:
            ClusterError: the cluster had no room for the group within `ray.wait_timeout`.
            LostError: a rank of the new group died.
        """
        self.learner = self._trainers()
        timeout = self.config.ray.wait_timeout
        try:
            await asyncio.wait_for(self._join_trainers(), timeout)
        except asyncio.TimeoutError:
            raise ClusterError(f"there was no room for the trainers within {timeout:g} s (ray.wait_timeout)") from None
        except LostError:
            self.learner.close()  # the other ranks wait for the lost one and occupy the next group's resources
            raise
        return self.learner

    def _trainers(self) -> GroupHandle:
        """Start the actors of a trainer group."""
        return GroupHandle([self._trainer(rank, bundle) for rank, bundle in enumerate(self.group.bundle_specs)])

    def _trainer(self, rank: int, bundle: dict[str, float]) -> RayHandle:
        """Start the actor of a rank in its bundle of the placement group."""
        place = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=rank)
        actor = _actor(TrainerActor, num_cpus=bundle["CPU"], num_gpus=bundle.get("GPU", 0), scheduling_strategy=place)
        return RayHandle(actor.remote(self.config, self.spaces, rank, len(self.group.bundle_specs)))

    async def start(self, incarnations: Sequence[int], report: Report) -> None:
        """Start the players and wait for all actors; report missing resources if that takes long.

        Args:
            incarnations: first incarnation of each player, by number.
            report: called with the message.

        Raises:
            ClusterError: the actors did not start within `ray.wait_timeout`.
        """
        for number, incarnation in enumerate(incarnations):
            self._waiting[number, incarnation] = self._player(number, incarnation)
        ready = asyncio.gather(
            self._join_trainers(),
            *(shard.call(ReplayActor.status) for shard in self.shards),
            *(player.call(PlayerActor.node) for player in self._waiting.values()),
        )
        timeout = self.config.ray.wait_timeout
        try:
            done, _ = await asyncio.wait({ready}, timeout=min(WARN_AFTER, timeout))
            if not done and self._is_short():
                report(f"waiting for the cluster: {self.shortage()}; giving up after {timeout:g} s (ray.wait_timeout)")
            if not done:
                await asyncio.wait_for(ready, max(0.0, timeout - WARN_AFTER))
            ready.result()
        except asyncio.TimeoutError:
            reason = self.shortage() if self._is_short() else "there was room, but actors were not up by then"
            raise ClusterError(f"the cluster didn't hold the run within {timeout:g} s: {reason}") from None
        except (RayError, LostError) as error:
            raise ClusterError(f"an actor of the run didn't start: {error}") from error

    async def _join_trainers(self) -> None:
        """Join the ranks to one Fabric group, with the rendezvous at rank 0."""
        ranks = self.learner.ranks
        host, port = await ranks[0].call(TrainerActor.address)
        await asyncio.gather(*(rank.call(TrainerActor.join, host, port) for rank in ranks))

    def requested(self) -> dict[str, float]:
        """Return the resources that the run requests."""
        return requested_resources(self.config)

    def _is_short(self) -> bool:
        """Return True if the free resources were too small for the run, not just slow to start."""
        return any(self._free.get(name, 0) < amount for name, amount in self.requested().items())

    def shortage(self) -> str:
        """Describe the requested and the available resources and the settings to lower."""
        config, ranks = self.config, len(self.learner.ranks)
        total, free = ray.cluster_resources(), self._free
        requested = " and ".join(f"{amount:g} {name}s" for name, amount in self.requested().items())
        available = " and ".join(
            f"{total.get(name, 0):g} {name}s, {free.get(name, 0):g} of them free at the start"
            for name in self.requested()
        )
        return (
            f"the run asks for {requested} (players.num={config.players.num} x players.cpus={config.players.cpus:g}, "
            f"{counted(ranks, 'rank')} of trainer.devices={config.trainer.devices}); the cluster has {available}; "
            "lower players.num, players.cpus or trainer.devices, or add a node"
        )

    def close(self) -> None:
        """End all actors and free their resources."""
        handles: list[Handle] = [*self.shards, self.learner, *self._waiting.values()]
        for handle in handles:
            handle.close()
        self._spares.close()
        remove_placement_group(self.group)


def _player_process(config: Config, spaces: Spaces) -> RayHandle:
    """Start an actor that can become a player."""
    resources = player_resources(config)
    actor = _actor(PlayerActor, num_cpus=resources["CPU"], num_gpus=resources["GPU"])
    return RayHandle(actor.remote(config, spaces))


def _has_room(config: Config, nodes: Mapping[int, asyncio.Task[Any]]) -> bool:
    """Return True if the cluster has room for one more player, once all players have a node."""
    if not all(node.done() for node in nodes.values()):
        return False
    free = ray.available_resources()
    return all(free.get(name, 0) >= amount for name, amount in player_resources(config).items())


def _actor(shell: type[Any], **options: Any) -> Any:
    """Make a Ray actor class of a class. Ray retries nothing, since the driver decides what to repeat.

    Task events are off: at hundreds of calls per second, Ray's control service would store up to a hundred thousand
    events and grow by a third of a gigabyte per hour.
    """
    options |= {"max_restarts": 0, "max_task_retries": 0, "enable_task_events": False}
    return ray.remote(**options)(shell)
