"""Join or start a Ray cluster, and place a run's actors on it."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import uuid
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import psutil
import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from sheeprl.actors.handle import Handle, LostError, awaited, consume_exception
from sheeprl.actors.ray import environment, internals, nodes
from sheeprl.actors.ray.actors import PlayerActor, ReplayActor, TrainerActor
from sheeprl.actors.ray.capacity import Node, Shape, describe_shortage, matches
from sheeprl.actors.ray.handle import GroupHandle, RayHandle
from sheeprl.actors.ray.queries import SteadyQuery
from sheeprl.actors.ray.standby import StandbyPool
from sheeprl.actors.ray.waiting import ClusterError, Waits
from sheeprl.config.defaults import cluster_address, fit_to
from sheeprl.config.schema import BufferConfig, Config, PlayersConfig, TrainerConfig
from sheeprl.envs.transforms import Spaces, row_bytes
from sheeprl.utils.text import counted

VITAL = {
    "raylet": "Ray's node process",
    "gcs_server": "Ray's control service",
    **{name[:15]: "an agent of Ray's node process" for name in ("DashboardAgent", "RuntimeEnvAgent")},
}
RANK_CPUS = 1  # requested per rank, which may use more threads: a run then fits a two-core machine
SHARD_BYTES = 256 * 2**20  # of a shard's process, besides its rows
RUN, TRAINERS = "the run", "the trainer group"  # names of what may wait for room
Report = Callable[[str], None]


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
            options: dict[str, Any] = {"address": address} if address else {"address": "local", **local}
            if config.ray.runtime_env:
                options["runtime_env"] = config.ray.runtime_env
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


def choose_accelerator(config: Config) -> str:
    """Return "cuda" if the cluster has GPUs for all ranks, else "cpu".

    Raises:
        ClusterError: the cluster has too few GPUs now, but its autoscaler may add nodes with GPUs.
    """
    trainer = config.trainer
    with_room = sum(node["Resources"].get("GPU", 0) >= trainer.devices for node in _live_nodes())
    if with_room >= trainer.num_nodes:
        return "cuda"
    if not internals.services() and internals.is_autoscaled():
        raise ClusterError(
            "trainer.accelerator=auto: no node with the GPUs is up now, but the cluster's autoscaler may add one; set "
            "trainer.accelerator=cuda to wait for it, or trainer.accelerator=cpu to train without"
        )
    return "cpu"


def _live_nodes() -> list[dict[str, Any]]:
    """Return the entries of the live nodes."""
    return [node for node in ray.nodes() if node["Alive"]]


@dataclass
class Fleet:
    """The actors of a run.

    Args:
        config: the run's configuration, resolved.
        spaces: observation and action space.
        video_folder: folder for videos of the first player; None records none.
        replay_folder: folder of the memory-mapped replay; None keeps it in memory.
        run: name of the run, for the names of its actors.
        marker: file that nodes with shards must be able to read; None if they needn't.
        report: called with a message about the cluster.
        excluded: ids of the nodes that can't run the actors.
        open_settings: settings whose defaults are those of the trainers' machine, which `start` fills in.

    Raises:
        ClusterError: a node can't read the marker, or a label is invalid.
    """

    config: Config
    spaces: Spaces
    video_folder: str | None = None
    replay_folder: str | None = None
    run: str = "run"
    marker: nodes.Marker | None = None
    report: Report = lambda text: None
    excluded: set[str] = field(default_factory=set)
    open_settings: Collection[str] = ()

    def __post_init__(self) -> None:
        """Check the nodes, reserve the trainers' resources and start the shards."""
        config = self.config
        self.is_local = bool(internals.services())  # a Ray that this process has started, on this machine only
        self._namespace = f"sheeprl-{uuid.uuid4().hex}"  # another run may have the same name
        self._known: set[str] = set()
        self._check_nodes(_live_nodes())
        self._free = internals.free_resources()
        bundles = [self._bundle(node) for node in range(config.trainer.num_nodes)]
        # All or nothing: an incomplete trainer group only blocks its resources.
        strategy = "STRICT_SPREAD" if len(bundles) > 1 else "PACK"
        labels = {"bundle_label_selector": [chosen] * len(bundles)} if (chosen := self._trainer_labels()) else {}
        try:
            self.group: PlacementGroup = placement_group(bundles, strategy=strategy, **labels)
            self.shards = [self._shard(number, 0) for number in range(config.buffer.shards)]
        except ValueError as error:
            raise ClusterError(f"label_selector: {error}; correct the labels of trainer or buffer") from error
        self.learner = self._trainers()
        self.waits = Waits(config.ray.wait_timeout, self.shortage)
        self.waits.report = self.report
        self._waiting: dict[tuple[int, int], Handle] = {}
        self._nodes: dict[int, asyncio.Task[Any]] = {}  # node of each player
        self._draining = SteadyQuery[set[str]](internals.draining_nodes, set())
        self._joined = SteadyQuery(self._check_new_nodes, None)
        has_room = SteadyQuery(partial(_has_room, config), False)
        self._spares = StandbyPool(
            config.players.spares, self._make_process, partial(_all_placed, self._nodes, has_room), self._leaving_nodes
        )

    # -------------------------------------------------------------------------------------------- nodes

    def _check_nodes(self, live: Sequence[Mapping[str, Any]]) -> None:
        """Check nodes that were not checked before; report and exclude those that can't run the actors.

        Raises:
            ClusterError: a node can't read the marker.
        """
        own = ray.get_runtime_context().get_node_id()
        new = [node for node in live if node["NodeID"] not in self._known and node["NodeID"] != own]
        self._known |= {node["NodeID"] for node in live}
        if self.is_local or not new:
            return
        seconds = self.config.ray.wait_timeout if self.config.ray.runtime_env else nodes.CHECK_SECONDS
        modules = nodes.env_modules(self.config.env.id)
        for found in nodes.check_nodes(new, modules, self.marker, seconds):
            if found.mistakes:
                self.excluded.add(found.node)
                self.report(
                    f"node {found.address} is not used: {'; '.join(found.mistakes)}; install the same packages there, "
                    "or set ray.runtime_env"
                )
            elif found.unseen and self.marker:
                raise ClusterError(self._blind(found))

    def _blind(self, found: nodes.NodeReport) -> str:
        """Return the message about a node that can't read the marker."""
        assert self.marker is not None
        if "://" in self.marker.place:
            return (
                f"checkpoint.storage={self.config.checkpoint.storage}: can't be read from node {found.address} "
                f"({found.unseen}); give Ray's processes there the keys and the network access"
            )
        return (
            f"node {found.address} doesn't see the checkpoints of this run ({found.unseen}), so a replay shard there "
            "couldn't save its rows; set checkpoint.storage=s3://bucket/prefix (or gs://…), or set run.dir to a folder "
            "that all nodes share"
        )

    def _check_new_nodes(self) -> None:
        """Check the nodes that have joined since the last check. One that can't read the storage is excluded."""
        try:
            self._check_nodes(_live_nodes())
        except ClusterError as error:
            self.report(f"{error}")

    def _trainer_labels(self) -> dict[str, str]:
        """Return the labels of the trainers' nodes: those of the fallback while no node has the others.

        Ray chooses between two selectors for actors, but not for placement groups.
        """
        trainer, labels = self.config.trainer, [node.get("Labels", {}) for node in _live_nodes()]
        selector = trainer.label_selector
        if trainer.label_fallback is not None and not any(matches(each, selector) for each in labels):
            selector = trainer.label_fallback
        return {**selector, **self._not_excluded()}

    def _labels(self, section: PlayersConfig | BufferConfig) -> dict[str, Any]:
        """Return Ray's options that select the nodes of a kind of actor."""
        avoid, options = self._not_excluded(), dict[str, Any]()
        if selector := {**section.label_selector, **avoid}:
            options["label_selector"] = selector
        if section.label_selector and section.label_fallback is not None:
            options["fallback_strategy"] = [{"label_selector": {**section.label_fallback, **avoid}}]
        return options

    def _not_excluded(self) -> dict[str, str]:
        """Return the label selector that avoids the excluded nodes."""
        return {nodes.NODE_ID: f"!in({','.join(sorted(self.excluded))})"} if self.excluded else {}

    def _leaving_nodes(self) -> set[str]:
        """Return the nodes that were being drained at the last look."""
        return self._draining.newest

    # -------------------------------------------------------------------------------------------- actors

    def _bundle(self, node: int) -> dict[str, float]:
        """Return the resources of the trainers of one node, and of the shards beside them."""
        config = self.config
        bundle: dict[str, float] = {"CPU": config.trainer.devices * RANK_CPUS}
        if config.trainer.accelerator == "cuda":
            bundle["GPU"] = config.trainer.devices
        if shards := sum(self._node_of_shard(shard) == node for shard in range(config.buffer.shards)):
            bundle["memory"] = shards * self._shard_memory
        return bundle

    def _node_of_shard(self, number: int) -> int | None:
        """Return the bundle in which a shard runs beside the trainers, None if it isn't placed by the trainers."""
        if self.is_local or self.config.buffer.label_selector:
            return None
        return number % self.config.trainer.num_nodes

    @property
    def _shard_memory(self) -> int:
        """Return the bytes of memory that a shard requests."""
        config = self.config
        assert config.buffer.size is not None
        if self.is_local or self.replay_folder is not None:
            return 1
        rows = min(config.buffer.size, config.run.total_steps + config.round_rows) // config.buffer.shards
        return SHARD_BYTES + rows * row_bytes(self.spaces)

    def make_player(self, number: int, incarnation: int) -> Handle:
        """Return the actor of a player; `start` has started the first incarnations."""
        waiting = self._waiting.pop((number, incarnation), None)
        player = waiting or self._player(number, incarnation)
        node = self._nodes[number] = asyncio.ensure_future(awaited(player.call(PlayerActor.node)))
        node.add_done_callback(consume_exception)  # the next call to a lost player raises, too
        if waiting is None:
            self.waits.add(f"player {number}", node)
        return player

    def make_evaluator(self, incarnation: int) -> Handle:
        """Start the actor of a player that only evaluates; its number follows those of the players."""
        # Without a CPU of its own, since a run has to fit the machine with or without evaluations.
        labels = self._labels(self.config.players)
        actor = self._actor(PlayerActor, f"evaluator:{incarnation}", num_cpus=0, memory=1, **labels)
        evaluator = RayHandle(actor.remote(self.config, self.spaces))
        evaluator.call(PlayerActor.assign, self.config.num_players, incarnation, None)
        return evaluator

    async def players_leaving(self) -> set[int]:
        """Return the players on nodes that are being drained, such as a spot machine before its end.

        Raises:
            ClusterError: a replaced actor found no node within `ray.wait_timeout`.
        """
        draining = await self._draining()
        if not self.is_local:
            await self._joined(seconds=0)
        await self.waits.check()
        there = {number: node for number, node in self._nodes.items() if node.done() and not node.exception()}
        return {number for number, node in there.items() if node.result() in draining}

    def make_shard(self, number: int, incarnation: int) -> Handle:
        """Start the actor that replaces a shard of the replay."""
        self.shards[number] = self._shard(number, incarnation)
        self.waits.add(f"shard {number} of the replay", self.shards[number].is_up())
        return self.shards[number]

    def _shard(self, number: int, incarnation: int) -> RayHandle:
        """Start the actor of a shard, beside the trainers if the cluster has several nodes."""
        # No CPU, since a shard copies in short bursts. One byte of memory at least, since Ray lets a random node place
        # an actor without resources, and nodes that spread actors independently can put all shards on one node.
        options: dict[str, Any] = {"num_cpus": 0, "memory": self._shard_memory, "scheduling_strategy": "SPREAD"}
        if (bundle := self._node_of_shard(number)) is not None:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                self.group, placement_group_bundle_index=bundle
            )
        else:
            options |= self._labels(self.config.buffer)
        actor = self._actor(ReplayActor, _numbered("shard", number, incarnation), **options)
        return RayHandle(actor.remote(self.config, self.spaces.frame_stack, number, incarnation, self.replay_folder))

    def _player(self, number: int, incarnation: int) -> Handle:
        """Start the actor of a player, or take a standby process once a first player exists."""
        name = _numbered("player", number, incarnation)
        process = self._spares.take(name) if self._nodes else self._make_process(name)
        process.call(PlayerActor.assign, number, incarnation, self.video_folder if number == 0 else None)
        return process

    def _make_process(self, name: str) -> RayHandle:
        """Start an actor that can become a player."""
        resources = player_resources(self.config)
        labels = self._labels(self.config.players)
        actor = self._actor(PlayerActor, name, num_cpus=resources["CPU"], num_gpus=resources["GPU"], **labels)
        return RayHandle(actor.remote(self.config, self.spaces))

    async def make_trainers(self, incarnation: int) -> Handle:
        """Start the trainer group that replaces a lost one.

        Raises:
            ClusterError: the cluster had no room for the group within `ray.wait_timeout`.
            LostError: a rank of the new group died.
        """
        self.learner = self._trainers(incarnation)
        try:
            await self.waits.wait_for(TRAINERS, self._join_trainers())
        except LostError:
            self.learner.close()  # the other ranks wait for the lost one and occupy the next group's resources
            raise
        return self.learner

    def _trainers(self, incarnation: int = 0) -> GroupHandle:
        """Start the actors of a trainer group."""
        return GroupHandle([self._trainer(rank, incarnation) for rank in range(self.config.trainer.ranks)])

    def _trainer(self, rank: int, incarnation: int) -> RayHandle:
        """Start the actor of a rank in the bundle of its node."""
        trainer = self.config.trainer
        place = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=rank // trainer.devices)
        gpus = 1 if trainer.accelerator == "cuda" else 0
        options: dict[str, Any] = {"num_cpus": RANK_CPUS, "num_gpus": gpus, "scheduling_strategy": place}
        actor = self._actor(TrainerActor, _numbered("trainer", rank, incarnation), **options)
        return RayHandle(actor.remote(self.config, self.spaces, rank, trainer.ranks))

    def _actor(self, shell: type[Any], name: str, **options: Any) -> Any:
        """Make a Ray actor class of a class. Ray retries nothing, since the driver decides what to repeat.

        Task events are off: at hundreds of calls per second, Ray's control service would store up to a hundred
        thousand events and grow by a third of a gigabyte per hour.
        """
        options |= {"max_restarts": 0, "max_task_retries": 0, "enable_task_events": False}
        options |= {"name": f"sheeprl:{self.run}:{name}", "namespace": self._namespace}
        return ray.remote(**options)(shell)

    # -------------------------------------------------------------------------------------------- start

    async def start(self, incarnations: Sequence[int]) -> None:
        """Start the players and wait for all actors; report missing resources if that takes long.

        Args:
            incarnations: first incarnation of each player, by number.

        Raises:
            ClusterError: the actors did not start within `ray.wait_timeout`.
        """
        try:
            for number, incarnation in enumerate(incarnations):
                self._waiting[number, incarnation] = self._player(number, incarnation)
        except ValueError as error:
            raise ClusterError(f"players.label_selector: {error}") from error
        ready = asyncio.gather(
            self._join_trainers(),
            *(shard.call(ReplayActor.status) for shard in self.shards),
            *(player.call(PlayerActor.node) for player in self._waiting.values()),
        )
        try:
            await self.waits.wait_for(RUN, ready)
        except (RayError, LostError) as error:
            raise ClusterError(f"an actor of the run didn't start: {error}") from error
        self._free = {}  # from now on, a shortage is judged by what is free at that time

    async def _join_trainers(self) -> None:
        """Join the ranks to one Fabric group, with the rendezvous at rank 0."""
        ranks = self.learner.ranks
        host, port = await ranks[0].call(TrainerActor.address)
        machine = await ranks[0].call(TrainerActor.machine)
        self.config = fit_to(self.config, machine, self.open_settings)
        if self.config.trainer.compile and not machine.has_compiler:
            raise ClusterError(
                f"trainer.compile=true: needs a C++ compiler on node {host}; install one there, or use "
                "trainer.compile=false"
            )
        await asyncio.gather(*(rank.call(TrainerActor.join, host, port, self.config) for rank in ranks))

    def requested(self) -> dict[str, float]:
        """Return the resources that the run requests."""
        return requested_resources(self.config)

    async def shortage(self, name: str) -> str:
        """Describe why an actor, or the whole run at its start, finds no room, and the settings to lower.

        Returns:
            The description, "" if there is room or the control store doesn't answer.
        """
        return await SteadyQuery(partial(self._describe_shortage, name), "")()

    def _describe_shortage(self, name: str) -> str:
        """Return the result of `shortage`; blocks while the control store doesn't answer."""
        config = self.config
        now = self._free or internals.free_resources()  # at the start, the run's own actors hold resources already
        found = [
            Node(now[node["NodeID"]], node["Resources"], node.get("Labels", {}))
            for node in _live_nodes()
            if node["NodeID"] in now and node["NodeID"] not in self.excluded
        ]
        reason = describe_shortage(self._shapes(name), found)
        if reason is None:
            return ""
        requested = " and ".join(f"{amount:g} {name}s" for name, amount in self.requested().items())
        available = " and ".join(
            f"{sum(node.total.get(name, 0) for node in found):g} {name}s, "
            f"{sum(node.free.get(name, 0) for node in found):g} of them free"
            for name in self.requested()
        )
        return (
            f"the run asks for {requested} (players.num={config.players.num} x players.cpus={config.players.cpus:g}, "
            f"{counted(config.trainer.ranks, 'rank')} of trainer.devices={config.trainer.devices}); the cluster has "
            f"{available}; {reason}; lower players.num, players.cpus or trainer.devices, or add a node"
        )

    def _shapes(self, name: str) -> list[Shape]:
        """Return the shapes of the waiting actors: of the whole run, or of the one of a name."""
        config, each = self.config, player_resources(self.config)
        spread = Shape(
            "trainer node",
            self._bundle(0),
            config.trainer.num_nodes,
            f"trainer.devices={config.trainer.devices}{_labelled('trainer', config.trainer.label_selector)}",
            spread=True,
            selectors=_selectors(config.trainer),
        )
        labelled = _labelled("players", config.players.label_selector)
        settings = f"players.cpus={each['CPU']:g}{labelled}"
        players = Shape("player", each, config.num_players, settings, selectors=_selectors(config.players))
        if name == RUN:
            return [spread, players]
        if name.startswith("player"):
            return [replace(players, number=1)]
        return [spread] if name == TRAINERS else []

    def close(self) -> None:
        """End all actors and free their resources."""
        handles: list[Handle] = [*self.shards, self.learner, *self._waiting.values()]
        for handle in handles:
            handle.close()
        self._spares.close()
        remove_placement_group(self.group)

    def forget(self) -> None:
        """Drop all handles: in a reference cycle, they would outlive Ray."""
        self.__dict__.clear()


def _selectors(section: PlayersConfig | TrainerConfig) -> list[dict[str, str]]:
    """Return the label selectors of a kind of actor; empty if it may use all nodes."""
    if not section.label_selector:
        return []
    return [section.label_selector, *([] if section.label_fallback is None else [section.label_fallback])]


def _labelled(section: str, selector: Mapping[str, str]) -> str:
    """Return the setting of a label selector, for messages; "" without one."""
    return f", {section}.label_selector={dict(selector)}" if selector else ""


def _numbered(kind: str, number: int, incarnation: int) -> str:
    """Return the name of an actor; Ray may still know the name of an earlier one that is ending."""
    return f"{kind}:{number}.{incarnation}" if incarnation else f"{kind}:{number}"


async def _all_placed(placed: Mapping[int, asyncio.Task[Any]], has_room: SteadyQuery[bool]) -> bool:
    """Return True if the cluster has room for one more player, once all players have a node."""
    return all(node.done() for node in placed.values()) and await has_room()


def _has_room(config: Config) -> bool:
    """Return True if a node has room for one more player."""
    wanted = player_resources(config)
    return any(
        all(free.get(name, 0) >= amount for name, amount in wanted.items())
        for free in internals.free_resources().values()
    )
