"""The actors of a run, placed on the nodes of a cluster."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from sheeprl.actors.handle import Handle, HostHandle, LostError
from sheeprl.actors.hosts import HostClient, HostGroup, PlayerHandle
from sheeprl.actors.interfaces import HostInterface
from sheeprl.actors.ray import internals, nodes
from sheeprl.actors.ray.actors import PlayerActor, ReplayActor, TrainerActor
from sheeprl.actors.ray.capacity import Node, Shape, describe_shortage, matches, placeable
from sheeprl.actors.ray.cluster import RANK_CPUS, live_nodes, player_resources, requested_resources
from sheeprl.actors.ray.handle import GroupHandle, RayHandle
from sheeprl.actors.ray.queries import SteadyQuery
from sheeprl.actors.ray.standby import StandbyPool
from sheeprl.actors.ray.waiting import ClusterError, Waits
from sheeprl.config.defaults import fit_to
from sheeprl.config.schema import BufferConfig, Config, PlayersConfig, TrainerConfig
from sheeprl.envs.transforms import Spaces, row_bytes
from sheeprl.utils.errors import ConfigError
from sheeprl.utils.text import counted

SHARD_BYTES = 256 * 2**20  # of a shard's process, besides its rows
RUN, TRAINERS = "the run", "the trainer group"  # names of what may wait for room
Report = Callable[[str], None]


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
        ConfigError: the cluster can't hold `players.min` processes.
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
        self._has_begun = False  # the first hosts are requested
        self._check_nodes(live_nodes())
        self._check_least()
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
        self._draining = SteadyQuery[set[str]](internals.draining_nodes, set())
        self._joined = SteadyQuery(self._check_new_nodes, None)
        has_room = SteadyQuery(partial(_has_room, config), False)
        self._spares = StandbyPool(
            config.players.spares, self._make_process, partial(self._all_placed, has_room), self._leaving_nodes
        )
        hosts = config.num_players, config.least_hosts, config.most_hosts
        self.hosts = HostGroup(*hosts, self._make_host, self._wait_for_host, lambda text: self.report(text))

    # -------------------------------------------------------------------------------------------- nodes

    def _check_nodes(self, live: Sequence[Mapping[str, Any]]) -> None:
        """Check nodes that were not checked before; exclude those that can't run the actors, and report them.

        Raises:
            ClusterError: nodes can't read the marker. They are excluded, too.
        """
        own = ray.get_runtime_context().get_node_id()
        new = [node for node in live if node["NodeID"] not in self._known and node["NodeID"] != own]
        self._known |= {node["NodeID"] for node in live}
        if self.is_local or not new:
            return
        seconds = self.config.ray.wait_timeout if self.config.ray.runtime_env else nodes.CHECK_SECONDS
        modules = nodes.env_modules(self.config.env.id)
        blind = []
        for found in nodes.check_nodes(new, modules, self.marker, seconds):
            if found.mistakes:
                self.report(
                    f"node {found.address} is not used: {'; '.join(found.mistakes)}; install the same packages there, "
                    "or set ray.runtime_env"
                )
            elif found.unseen and self.marker:
                blind.append(self._blind(found))
            else:
                continue
            self.excluded.add(found.node)
        if blind:
            raise ClusterError("; ".join(blind))

    def _check_least(self) -> None:
        """Check that the cluster can hold `players.min` processes; an autoscaler may add nodes.

        Raises:
            ConfigError: it can't.
        """
        least = self.config.players.min
        if least is None or self.is_local or internals.is_autoscaled():
            return
        usable = [node for node in live_nodes() if node["NodeID"] not in self.excluded]
        found = [Node(node["Resources"], node["Resources"], node.get("Labels", {})) for node in usable]
        if (room := placeable(self._shapes(RUN), found)[-1]) < least:
            raise ConfigError(
                [
                    f"players.min={least}: the cluster has room for {room} such processes beside the trainers, and no "
                    "autoscaler that adds nodes; use a smaller players.min, lower players.cpus, or add a node"
                ]
            )

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
            self._check_nodes(live_nodes())
        except ClusterError as error:
            self.report(f"{error}")

    def _trainer_labels(self) -> dict[str, str]:
        """Return the labels of the trainers' nodes: those of the fallback while no node has the others.

        Ray chooses between two selectors for actors, but not for placement groups.
        """
        trainer, labels = self.config.trainer, [node.get("Labels", {}) for node in live_nodes()]
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
        return SHARD_BYTES + rows * (row_bytes(self.spaces) + config.algo.stored_bytes)

    def make_player(self, number: int, incarnation: int) -> Handle:
        """Return the handle of a player on one of the hosts that `start` has started."""
        return self.hosts.make_player(number, incarnation)

    def _make_host(self, name: str) -> HostHandle:
        """Start an actor that holds players, or take a standby process once the run has begun."""
        return self._spares.take(name) if self._has_begun else self._make_process(name)

    def _wait_for_host(self, number: int, host: HostClient) -> None:
        """Report it repeatedly if a player waits for its host."""
        self.waits.add(f"player {number}", asyncio.shield(host.node))

    async def _all_placed(self, has_room: SteadyQuery[bool]) -> bool:
        """Return True if the cluster has room for one more process, once all hosts have a node."""
        return len(self.hosts.up) >= self.hosts.wanted and await has_room()

    def make_evaluator(self, incarnation: int) -> Handle:
        """Start the actor of a player that only evaluates; its number follows those of the players."""
        # Without a CPU, since a run has to fit the machine with or without evaluations.
        labels = self._labels(self.config.players)
        actor = self._actor(PlayerActor, f"evaluator:{incarnation}", num_cpus=0, memory=1, **labels)
        host = HostClient(f"evaluator {incarnation}", RayHandle(actor.remote(self.config, self.spaces)))
        host.handle.call(HostInterface.assign, self.config.num_players, incarnation)
        return PlayerHandle(host, self.config.num_players, lambda host, number: host.handle.close())

    async def find_moves(self, waited: float) -> dict[int, str]:
        """Return the players that move to another host, with the reason, such as a spot machine before its end.

        Args:
            waited: seconds that the trainers have waited for players since the run began.

        Raises:
            ClusterError: a replaced actor found no node within `ray.wait_timeout`.
        """
        draining = await self._draining()
        if not self.is_local:
            await self._joined(seconds=0)
        await self.waits.check()
        return self.hosts.moves(draining, waited)

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

    def _make_process(self, name: str) -> RayHandle:
        """Start an actor that can hold players."""
        resources = player_resources(self.config)
        labels = self._labels(self.config.players)
        actor = self._actor(PlayerActor, name, num_cpus=resources["CPU"], num_gpus=resources["GPU"], **labels)
        return RayHandle(actor.remote(self.config, self.spaces, self.video_folder))

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

    def _actor(self, actor_class: type[Any], name: str, **options: Any) -> Any:
        """Make Ray's class of an actor class. Ray retries nothing, since the driver decides what to repeat.

        Task events are off: at hundreds of calls per second, Ray's control service would store up to a hundred
        thousand events and grow by a third of a gigabyte per hour.
        """
        options |= {"max_restarts": 0, "max_task_retries": 0, "enable_task_events": False}
        options |= {"name": f"sheeprl:{self.run}:{name}", "namespace": self._namespace}
        return ray.remote(**options)(actor_class)

    # -------------------------------------------------------------------------------------------- start

    async def start(self) -> None:
        """Start the hosts of the players and wait for all actors; report missing resources if that takes long.

        The run begins with `players.min` hosts. The others remain pending, which makes an autoscaler add nodes.

        Raises:
            ClusterError: the actors did not start within `ray.wait_timeout`.
        """
        try:
            self.hosts.start()
        except ValueError as error:
            raise ClusterError(f"players.label_selector: {error}") from error
        self._has_begun = True
        ready = asyncio.gather(
            self._join_trainers(),
            *(shard.call(ReplayActor.status) for shard in self.shards),
            self.hosts.wait_for_least(),
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
            for node in live_nodes()
            if node["NodeID"] in now and node["NodeID"] not in self.excluded
        ]
        reason = describe_shortage(self._shapes(name), found)
        if reason is None:
            return ""
        requested = " and ".join(f"{amount:g} {kind}s" for kind, amount in self.requested().items())
        available = " and ".join(
            f"{sum(node.total.get(kind, 0) for node in found):g} {kind}s, "
            f"{sum(node.free.get(kind, 0) for node in found):g} of them free"
            for kind in self.requested()
        )
        return (
            f"the run requests {requested} (players.num={config.players.num} x players.cpus={config.players.cpus:g}, "
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
        players = Shape("player", each, config.least_hosts, settings, selectors=_selectors(config.players))
        if name == RUN:
            return [spread, players]
        if name.startswith("player"):
            return [replace(players, number=1)]
        return [spread] if name == TRAINERS else []

    def close(self) -> None:
        """End all actors and free their resources."""
        for shard in self.shards:
            shard.close()
        self.learner.close()
        self.hosts.close()
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


def _has_room(config: Config) -> bool:
    """Return True if a node has room for one more player."""
    wanted = player_resources(config)
    return any(
        all(free.get(name, 0) >= amount for name, amount in wanted.items())
        for free in internals.free_resources().values()
    )
