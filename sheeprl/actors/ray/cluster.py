"""Joining or starting a Ray cluster, and placing a run's actors on it."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from sheeprl.actors.handle import Handle, LostError, consume_exception
from sheeprl.actors.ray import internals
from sheeprl.actors.ray.actors import PlayerActor, ReplayActor, TrainerActor
from sheeprl.actors.ray.handle import GroupHandle, RayHandle, awaited
from sheeprl.actors.ray.standby import StandbyPool
from sheeprl.actors.ray.watchdog import Watchdog
from sheeprl.config.defaults import cluster_address
from sheeprl.config.schema import Config
from sheeprl.envs.transforms import Spaces

WARN_AFTER = 3.0  # seconds of waiting before saying for what
RANK_CPUS = 1  # that a rank asks for, though it may use more threads: so that a run fits a two-core machine
Report = Callable[[str], None]
_guarded: list[Watchdog] = []  # of the Ray that was started for the run


class ClusterError(RuntimeError):
    """The cluster can't be joined, or doesn't hold the run."""


def connect(config: Config) -> bool:
    """Join the cluster that `ray.address` or RAY_ADDRESS names, or the one whose job this is; else start one here.

    A program that has called `ray.init` itself stays with what it chose.

    Returns:
        Whether a connection was made, which `disconnect` ends.

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
        _check_listening(address)
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    try:
        if address:
            ray.init(address=address, log_to_driver=show, logging_level=logging.ERROR)
        else:
            # Actors ask for logical CPUs; on a small machine there may be fewer cores than actors that take turns.
            asked = resources_asked(config)["CPU"] + config.players.spares * player_resources(config)["CPU"]
            cpus = max(os.cpu_count() or 1, math.ceil(asked))
            # "local": a cluster that happens to run on this machine is joined when it is named, not by chance.
            ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=show, logging_level=logging.ERROR)
            _guarded.append(Watchdog([process.pid for process in internals.services()]))
    except Exception as error:  # Ray raises a plain one where its processes don't come up in time
        where = f"the Ray cluster at {address}" if address else "Ray"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ClusterError(f"{where} can't be {'joined' if address else 'started'}: {reason}") from error
    return True


def _check_listening(address: str) -> None:
    """Find out at once what Ray would find out after minutes.

    Raises:
        ClusterError: nobody listens there.
    """
    host, _, port = address.rpartition(":")
    if "/" in address or not port.isdigit():  # ray:// and auto are Ray's to resolve
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ClusterError(f"the Ray cluster at {address} can't be joined: {error}") from error


def disconnect() -> None:
    """Leave the cluster; one that was started for the run ends."""
    ray.shutdown()
    while _guarded:
        _guarded.pop().close()


def resources_asked(config: Config) -> dict[str, float]:
    """What the actors of a run ask of Ray."""
    players, ranks, each = config.players.num or 1, config.trainer.ranks, player_resources(config)
    asked = {"CPU": ranks * RANK_CPUS + players * each["CPU"]}
    if gpus := players * each["GPU"] + (ranks if config.trainer.accelerator == "cuda" else 0):
        asked["GPU"] = gpus
    return asked


def player_resources(config: Config) -> dict[str, float]:
    """What a player's process asks of Ray."""
    return {"CPU": config.players.cpus, "GPU": config.players.gpus}


def cuda_available(config: Config) -> bool:
    """Whether the cluster has a GPU for every rank."""
    return bool(ray.cluster_resources().get("GPU", 0) >= config.trainer.ranks)


@dataclass
class Fleet:
    """The actors of a run.

    Args:
        config: the run's configuration, resolved.
        spaces: what the agent sees and does.
        video_folder: where the first player records, if anywhere.
        replay_folder: where the replay is mapped from, if it is.
    """

    config: Config
    spaces: Spaces
    video_folder: str | None = None
    replay_folder: str | None = None

    def __post_init__(self) -> None:
        self._free: dict[str, float] = ray.available_resources()
        ranks = self.config.trainer.ranks
        gpus = 1 if self.config.trainer.accelerator == "cuda" else 0
        bundle = {"CPU": RANK_CPUS, **({"GPU": gpus} if gpus else {})}
        # All or nothing: half a trainer group can't do anything but block what it holds.
        self.group: PlacementGroup = placement_group([bundle] * ranks, strategy="PACK")
        self.shards = [self._shard(number, 0) for number in range(self.config.buffer.shards)]
        self.learner = self._trainers()
        self._waiting: dict[tuple[int, int], Handle] = {}
        self._nodes: dict[int, asyncio.Task[Any]] = {}  # where each player is
        # Neither knows the fleet: a ring of references would keep actors' handles beyond the end of their Ray.
        self._make_process = partial(_player_process, self.config, self.spaces)
        has_room = partial(_has_room, self.config, self._nodes)
        self._spares = StandbyPool(self.config.players.spares, self._make_process, has_room, internals.draining_nodes)

    def make_player(self, number: int, incarnation: int) -> Handle:
        """The actor of a player; the first ones were started ahead."""
        player = self._waiting.pop((number, incarnation), None) or self._player(number, incarnation)
        node = self._nodes[number] = asyncio.ensure_future(awaited(player.call(PlayerActor.node)))
        node.add_done_callback(consume_exception)  # of a loss the run hears anyway
        return player

    async def players_leaving(self) -> set[int]:
        """The players on nodes that are being drained, as before a spot machine is taken away."""
        draining = internals.draining_nodes()
        there = {number: node for number, node in self._nodes.items() if node.done() and not node.exception()}
        return {number for number, node in there.items() if node.result() in draining}

    def make_shard(self, number: int, incarnation: int) -> Handle:
        """The actor that takes the place of a shard of the replay."""
        self.shards[number] = self._shard(number, incarnation)
        return self.shards[number]

    def _shard(self, number: int, incarnation: int) -> RayHandle:
        # No CPU, since a shard copies in short bursts. But a byte: who asks for nothing at all is placed by a node
        # taken at random, and nodes that take turns each by their own count put all shards on one.
        actor = _actor(ReplayActor, num_cpus=0, memory=1, scheduling_strategy="SPREAD")
        return RayHandle(actor.remote(self.config, number, incarnation, self.replay_folder))

    def _player(self, number: int, incarnation: int) -> Handle:
        process = self._spares.take() if self._nodes else self._make_process(False)
        process.call(PlayerActor.assign, number, incarnation, self.video_folder if number == 0 else None)
        return process

    async def make_trainers(self, incarnation: int) -> Handle:
        """A trainer group that takes the place of one that was lost.

        Raises:
            ClusterError: the cluster had no room for it within `ray.wait_timeout`.
            LostError: a rank of it was lost as well.
        """
        self.learner = self._trainers()
        timeout = self.config.ray.wait_timeout
        try:
            await asyncio.wait_for(self._join_trainers(), timeout)
        except asyncio.TimeoutError:
            raise ClusterError(f"there was no room for the trainers within {timeout:g} s (ray.wait_timeout)") from None
        except LostError:
            self.learner.close()  # the other ranks, which wait for the lost one in the places of the next group
            raise
        return self.learner

    def _trainers(self) -> GroupHandle:
        return GroupHandle([self._trainer(rank, bundle) for rank, bundle in enumerate(self.group.bundle_specs)])

    def _trainer(self, rank: int, bundle: dict[str, float]) -> RayHandle:
        place = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=rank)
        actor = _actor(TrainerActor, num_cpus=bundle["CPU"], num_gpus=bundle.get("GPU", 0), scheduling_strategy=place)
        return RayHandle(actor.remote(self.config, self.spaces, rank, len(self.group.bundle_specs)))

    async def start(self, incarnations: Sequence[int], report: Report) -> None:
        """Wait until every actor is there; say what is lacking while it takes long.

        Args:
            incarnations: that the players will have at first, by number.
            report: takes what is to be said.

        Raises:
            ClusterError: the cluster didn't hold the run within `ray.wait_timeout`.
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
        """Make one Fabric group of the ranks, which meet at rank 0."""
        ranks = self.learner.ranks
        host, port = await ranks[0].call(TrainerActor.address)
        await asyncio.gather(*(rank.call(TrainerActor.join, host, port) for rank in ranks))

    def asked(self) -> dict[str, float]:
        """Resources that the run asks for."""
        return resources_asked(self.config)

    def _is_short(self) -> bool:
        """Whether less was free than the run asks for, so that it isn't just slow to start."""
        return any(self._free.get(name, 0) < amount for name, amount in self.asked().items())

    def shortage(self) -> str:
        """What is asked, what there is, and which setting to lower."""
        config, ranks = self.config, len(self.learner.ranks)
        total, free = ray.cluster_resources(), self._free
        asked = " and ".join(f"{amount:g} {name}s" for name, amount in self.asked().items())
        there = " and ".join(
            f"{total.get(name, 0):g} {name}s, {free.get(name, 0):g} of them free at the start" for name in self.asked()
        )
        return (
            f"the run asks for {asked} (players.num={config.players.num} x players.cpus={config.players.cpus:g}, "
            f"{ranks} ranks of trainer.devices={config.trainer.devices}); the cluster has {there}; "
            "lower players.num, players.cpus or trainer.devices, or add a node"
        )

    def close(self) -> None:
        """Let go of what the actors held."""
        handles: list[Handle] = [*self.shards, self.learner, *self._waiting.values()]
        for handle in handles:
            handle.close()
        self._spares.close()
        remove_placement_group(self.group)


def _player_process(config: Config, spaces: Spaces, in_reserve: bool) -> RayHandle:
    """An actor that can become a player."""
    asked = player_resources(config)
    actor = _actor(PlayerActor, num_cpus=asked["CPU"], num_gpus=asked["GPU"])
    return RayHandle(actor.remote(config, spaces, in_reserve))


def _has_room(config: Config, nodes: Mapping[int, asyncio.Task[Any]]) -> bool:
    """Whether one more of these fits, once all players have a node."""
    if not all(node.done() for node in nodes.values()):
        return False
    free = ray.available_resources()
    return all(free.get(name, 0) >= amount for name, amount in player_resources(config).items())


def _actor(shell: type[Any], **options: Any) -> Any:
    """A shell as an actor class. Nothing is retried behind the run's back: it decides what is done again.

    Ray isn't told of each call for its task list: a run makes hundreds a second, and the control service, which keeps a
    hundred thousand, would grow by a third of a gigabyte an hour until then.
    """
    options |= {"max_restarts": 0, "max_task_retries": 0, "enable_task_events": False}
    return ray.remote(**options)(shell)
