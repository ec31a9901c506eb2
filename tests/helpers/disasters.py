"""Simulate runs with random failures: the unchanged driver in virtual time, and the invariants that must hold.

`python -m tests.helpers.disasters --schedules 10000 --seed 0` simulates 10,000 schedules;
`--seed 17 --schedules 1` repeats schedule 17.

A schedule has one or several nodes, on which players, shards and trainers live. They die alone, all players at once,
with their node or with the driver, before a call runs or between the call and its answer. The results that are stored
on a dead node are lost. The driver is killed or stopped and resumes from the newest checkpoint. Nodes are drained, die
and return. Checkpoints fail. Each fragment has the number of its player and of its rows, so that a lost, duplicated or
misplaced row is detected.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import floor
from typing import Any

from sheeprl.actors.evaluation import Evaluation
from sheeprl.actors.handle import DataLostError, LostError
from sheeprl.actors.messages import BufferStatus, FragmentInfo, UpdateInfo
from sheeprl.algos.args import OffPolicy, OnPolicy
from sheeprl.buffer.fragments import FragmentOrder, RefusedFragmentError
from sheeprl.config.schema import Config
from sheeprl.driver.players import PlayerGroup, PlayerState
from sheeprl.driver.replay import ReplayClient
from sheeprl.driver.trainers import LearnerGroup, Snapshot
from sheeprl.driver.updates import CHUNK_BYTES
from sheeprl.metrics.counters import Counters, RunStats
from sheeprl.run import Run
from sheeprl.utils.errors import RunFailedError
from tests.helpers.driver_config import driver_config
from tests.helpers.simulation import (
    DiedError,
    Outcome,
    RecordingReporter,
    SimulatedHandle,
    SimulatedRef,
    VirtualClock,
    run_virtually,
)

StreamKey = tuple[int, int]
"""(player, incarnation)."""

# ------------------------------------------------------------------------------------------------- schedules


@dataclass(frozen=True)
class Disaster:
    """Failure or other event of a run.

    Args:
        time: ticks since the driver began.
        kind: `player`, `players`, `shard`, `trainer`, `node`, `return`, `drain`, `kill` or `stop`; the last two concern
            the driver.
        which: number of the affected worker or node, taken modulo their count.
        unheard: True if a worker dies after its next call has run, before the driver receives the answer.
    """

    time: int
    kind: str
    which: int
    unheard: bool


@dataclass(frozen=True)
class Schedule:
    """Settings of a run and all its disasters.

    Args:
        seed: seed of the durations of calls and of the placement of workers.
        config: configuration of the run.
        shards: number of replay shards.
        mapped: True if the rows of a shard survive it as long as its node lives.
        nodes: number of nodes; the driver's node never dies alone.
        refused: one of this many fragments is refused; 0 for none.
        failing_checkpoints: one of this many checkpoints fails; 0 for none.
        legs: disasters of each driver; one more driver without disasters follows the last.
    """

    seed: int
    config: Config
    shards: int
    mapped: bool
    nodes: int
    refused: int
    failing_checkpoints: int
    legs: tuple[tuple[Disaster, ...], ...]

    @property
    def loses_files(self) -> bool:
        """True if rows in files can be lost."""
        return self.nodes > 1


KINDS = ("player", "players", "shard", "trainer", "node", "return", "drain", "kill", "stop")
OFTEN = (6, 2, 6, 6, 4, 4, 3, 3, 2)


def draw_schedule(seed: int) -> Schedule:
    """Return the schedule of a seed."""
    rng = random.Random(seed)
    players, rows, envs = rng.randint(1, 4), rng.randint(1, 4), rng.randint(1, 3)
    round_rows = players * rows * envs
    data: OnPolicy | OffPolicy
    if rng.random() < 0.3:
        data = OnPolicy(rows, batch_size=rng.randint(1, 2 * round_rows), epochs=rng.randint(1, 3))
    else:
        data = OffPolicy(
            batch_size=rng.randint(1, 2 * round_rows),
            replay_ratio=rng.choice([1.0, 0.5, 0.3, 0.7, 4.0, 37.0, rng.randint(1, 9999) / 1000]),
            learning_starts=rng.randint(0, 2 * round_rows),
            fragment_rows=rows,
            writes_back=rng.random() < 0.5,
        )
    on_policy = isinstance(data, OnPolicy)
    config = driver_config(
        data,
        rng.randint(1, 8 * round_rows),
        players,
        rows,
        rng.randint(0, 2),
        envs=envs,
        prefetch=rng.randint(0, 2),
        max_failures=10**6,
        log_every=rng.randint(1, 2 * round_rows),
        snapshot_every=rng.choice([None, rng.randint(1, 2 * round_rows)]),
        checkpoint_every=rng.choice([None, rng.randint(1, 3 * round_rows)]),
        checkpoint_seconds=rng.choice([None, None, float(rng.randint(5, 100))]),
        eval_every=rng.choice([None, rng.randint(1, 3 * round_rows)]),
        eval_episodes=rng.randint(0, 1),
    )
    return Schedule(
        seed,
        config,
        shards=1 if on_policy else rng.randint(1, min(players, 3)),
        mapped=not on_policy and rng.random() < 0.5,
        nodes=rng.choice([1, 1, 2, 3]),
        refused=0 if on_policy else rng.choice([0, 0, 5]),
        failing_checkpoints=rng.choice([0, 0, 3]),
        legs=tuple(_draw_disasters(rng) for _ in range(rng.randint(1, 3))),
    )


def _draw_disasters(rng: random.Random) -> tuple[Disaster, ...]:
    """Return the disasters of one driver."""
    now, drawn = 0, []
    for kind in rng.choices(KINDS, OFTEN, k=rng.randint(0, 7)):
        now += rng.randint(0, 60)
        drawn.append(Disaster(now, kind, rng.randrange(12), rng.random() < 0.4))
    return tuple(drawn)


# --------------------------------------------------------------------------------------------------- messages


@dataclass(frozen=True)
class Weights:
    """Weights, identified by their number of gradient steps."""

    gradient_steps: int


@dataclass(frozen=True)
class Played:
    """Fragment with a unique number, its stream, and the row numbers `first` to `first + rows - 1`."""

    number: int
    stream: StreamKey
    sequence: int
    first: int
    rows: int
    policy_steps: int
    version: int
    mode: str


@dataclass(frozen=True)
class Block:
    """Samples; for a rollout also its fragments."""

    fragments: tuple[Played, ...]
    samples: int


@dataclass
class Rows:
    """Rows of a shard, and the next sequence number of each stream."""

    fragments: list[Played] = field(default_factory=list)
    expected: dict[StreamKey, int] = field(default_factory=dict)
    newest: dict[int, int] = field(default_factory=dict)

    def add(self, fragment: Played) -> None:
        """Add a fragment; ignore one that was added before."""
        player, incarnation = fragment.stream
        if incarnation < self.newest.get(player, 0) or fragment.sequence < self.expected.get(fragment.stream, 0):
            return
        self.newest[player] = incarnation
        self.expected[fragment.stream] = fragment.sequence + 1
        self.fragments.append(fragment)

    @property
    def size(self) -> int:
        """Number of rows."""
        return sum(fragment.rows for fragment in self.fragments)


# -------------------------------------------------------------------------------------------------- the actors


class Player:
    """Fake player that numbers its rows."""

    def __init__(self, world: World, number: int, incarnation: int) -> None:
        """Start at row 0."""
        self.world, self.stream = world, (number, incarnation)
        self.sequence = self.first = 0

    def collect(
        self,
        rows: int,
        weights: Weights,
        version: int,
        mode: str,
        progress: float,
        keep_state: bool,
        unsaved: str | None,
        env_values: dict[str, Any] | None = None,
    ) -> tuple[FragmentInfo, Played]:
        """Return the next fragment."""
        config = self.world.schedule.config
        assert rows == config.fragment_rows
        count = rows * config.env.num_envs
        ends = (self.stream[0] + self.stream[1] + self.sequence) % 3 if rows > 2 else 0
        fragment = Played(
            self.world.next_number(), self.stream, self.sequence, self.first, count, count - ends, version, mode
        )
        self.first += count
        self.sequence += 1
        state = self.state() if keep_state else None
        return FragmentInfo(version, count - ends, count, (), (), seconds=1.0, state=state), fragment

    def state(self) -> bytes:
        """Return the numbers of the next fragment and row."""
        return f"{self.sequence} {self.first}".encode()

    def load(self, state: bytes) -> bool:
        """Restore the numbers of the next fragment and row."""
        assert self.sequence == 0
        self.sequence, self.first = map(int, state.split())
        return True

    def evaluate(self, weights: Weights, episodes: int, env_values: dict[str, Any] | None = None) -> Evaluation:
        """Return episodes without reward."""
        assert isinstance(weights, Weights)
        return Evaluation(0.0, 0.0, [0.0] * episodes, [1] * episodes)


class Shard:
    """Fake shard that stores fragments in memory or on the disk of its node."""

    def __init__(self, world: World, number: int, rows: Rows) -> None:
        """Store the rows."""
        self.world, self.number, self.rows = world, number, rows
        self.order = FragmentOrder()

    def status(self) -> BufferStatus:
        """Return the status."""
        size, config = self.rows.size, self.world.schedule.config
        sample_bytes = CHUNK_BYTES // (17 * (config.algo.data().batch_size or 1))  # a round needs several chunks
        return BufferStatus(size, size, float(size), sample_bytes if size else 0, added=size)

    def add(self, fragment: Played, batch: int, place: int) -> BufferStatus:
        """Add a fragment, or refuse it if the schedule says so."""
        self.order.check(batch, place)
        every = self.world.schedule.refused
        if every and (fragment.sequence + sum(fragment.stream)) % every == every - 1:
            raise RefusedFragmentError(f"fragment {fragment.sequence} of player {fragment.stream[0]} doesn't fit")
        self.rows.add(fragment)
        return self.status()

    def sample(self, n_batches: int, progress: float) -> tuple[int, Block]:
        """Return batches."""
        config = self.world.schedule.config
        if isinstance(config.algo.data(), OnPolicy):
            return 1, Block(tuple(self.rows.fragments[-config.num_players :]), 1)
        assert self.rows.size >= config.algo.data().batch_size, (
            "a batch was requested from a replay that can't serve it"
        )
        return self.sample_part(n_batches * config.algo.data().batch_size, progress)

    def sample_part(self, count: int, progress: float) -> tuple[int, Block]:
        """Return a part of batches."""
        assert self.rows.size, "samples were requested from an empty shard"
        return count, Block((), count)

    def write_back(self, writes: str) -> BufferStatus:
        """Check the values and return the status."""
        assert writes == "writes"
        return self.status()

    def save(self, folder: str) -> BufferStatus:
        """Save a copy of the rows."""
        self.world.saved[folder][self.number] = copy.deepcopy(self.rows)
        return self.status()

    def load(self, folder: str) -> BufferStatus:
        """Load saved rows."""
        saved = copy.deepcopy(self.world.saved[folder][self.number])
        vars(self.rows).update(vars(saved))  # in place, because the object is the file on the disk
        return self.status()

    def restore(self, folder: str | None, initial: str | None = None) -> BufferStatus:
        """Load saved rows if the shard has none."""
        if folder is not None and not self.rows.size:
            self.load(folder)
        return self.status()


class Learner:
    """Fake learner that counts gradient steps and records the rollouts that it used."""

    def __init__(self, world: World) -> None:
        """Start without gradient steps."""
        self.world = world
        self.gradient_steps = 0
        self.learned: list[tuple[int, ...]] = []  # numbers of each rollout's fragments

    def update(self, steps: int, progress: float, order: int | None, *blocks: Block) -> tuple[UpdateInfo, str]:
        """Count gradient steps and record the rollout."""
        config = self.world.schedule.config
        if isinstance(config.algo.data(), OnPolicy):
            self.learned.append(tuple(fragment.number for block in blocks for fragment in block.fragments))
        else:
            assert sum(block.samples for block in blocks) == steps * config.algo.data().batch_size
        self.gradient_steps += steps
        return UpdateInfo(self.gradient_steps, {}, seconds=1.0, began=0.0), "writes"

    def weights(self) -> tuple[int, Weights]:
        """Return the weights."""
        return self.gradient_steps, Weights(self.gradient_steps)

    def snapshot(self) -> tuple[int, tuple[int, list[tuple[int, ...]]]]:
        """Return the number of gradient steps and the used rollouts."""
        return self.gradient_steps, (self.gradient_steps, list(self.learned))

    def restore(self, data: tuple[int, list[tuple[int, ...]]]) -> int:
        """Restore a snapshot."""
        self.gradient_steps, self.learned = data[0], list(data[1])
        return self.gradient_steps


class PlacedRef(SimulatedRef):
    """Result whose second half stays on its node until it is fetched."""

    def __init__(self, world: World, outcome: asyncio.Future[Outcome], half: int | None = None) -> None:
        """Store the outcome of the call."""
        super().__init__(outcome, half)
        self.world = world

    def get(self) -> Any:
        """Return the result, or raise if it was lost with its node."""
        if self.half == 1 and self.outcome in self.world.gone:
            raise DataLostError("the result was on a lost node")
        return super().get()


class Placed(SimulatedHandle):
    """Actor on a node."""

    def __init__(self, world: World, name: str, target: Any, node: int) -> None:
        """Place the actor."""
        super().__init__(name, target, world.ticks, [])
        self.world, self.node = world, node
        self.results: list[asyncio.Future[Outcome]] = []
        world.actors.append(self)

    def call(self, method: Callable[..., Any], *args: Any) -> PlacedRef:
        """Request a call."""
        ref = super().call(method, *args)
        self.results.append(ref.outcome)
        return PlacedRef(self.world, ref.outcome)

    def call_pair(self, method: Callable[..., Any], *args: Any) -> tuple[PlacedRef, PlacedRef]:
        """Request a call that returns a pair."""
        outcome = self.call(method, *args).outcome
        return PlacedRef(self.world, outcome, 0), PlacedRef(self.world, outcome, 1)

    def die_soon(self, unheard: bool) -> None:
        """Die now, or if `unheard` after the next call has run, so that its answer is lost."""
        error = DiedError(f"{self.name} died")
        if unheard and self.dead is None:
            self.on_answer = lambda handle, method: handle.die(error)
        else:
            self.die(error)

    def close(self) -> None:
        """Release the actor."""
        super().close()
        if self in self.world.actors:
            self.world.actors.remove(self)


# ---------------------------------------------------------------------------------------------- checkpoints


@dataclass(frozen=True)
class Checkpoint:
    """Checkpoint, with the fragments that the replay had accepted when it began."""

    folder: str
    stats: dict[str, Any]
    snapshot: Snapshot
    players: Mapping[int, PlayerState]
    taken: dict[int, Played]
    rounds: list[dict[int, int]]


class CheckpointStore:
    """Checkpoint store that has the two newest checkpoints; some writes fail."""

    def __init__(self, world: World) -> None:
        """Start without checkpoints."""
        self.world = world
        self.taken: dict[str, tuple[dict[int, Played], list[dict[int, int]]]] = {}

    @property
    def keeps_buffer(self) -> bool:
        """True if checkpoints contain the buffer."""
        return self.world.schedule.config.algo.data().is_off_policy

    @property
    def newest_buffer(self) -> str | None:
        """Folder of the buffer in the newest checkpoint."""
        checkpoints = self.world.checkpoints
        return f"{checkpoints[-1].folder}/buffer" if checkpoints and self.keeps_buffer else None

    def replay_place(self, folder: str) -> str:
        """Return the folder of the replay."""
        return f"{folder}/buffer"

    def begin(self, policy_steps: int) -> str:
        """Begin a checkpoint; some fail."""
        world = self.world
        folder = f"folder {world.next_number()}"
        if self._fails():
            raise OSError("the disk is full")
        world.saved[f"{folder}/buffer"] = {}
        self.taken[folder] = dict(world.taken), copy.deepcopy(world.rounds)
        return folder

    async def finish(
        self, folder: str, stats: dict[str, Any], snapshot: Snapshot, players: Mapping[int, PlayerState]
    ) -> None:
        """Complete a checkpoint; some fail."""
        world = self.world
        checkpoint = Checkpoint(folder, copy.deepcopy(stats), snapshot, dict(players), *self.taken[folder])
        await asyncio.sleep(world.ticks())
        if self._fails():
            raise OSError("the disk is full")
        world.checkpoints.append(checkpoint)
        for old in world.checkpoints[:-2]:
            world.saved.pop(f"{old.folder}/buffer", None)
        await asyncio.sleep(world.ticks())

    def abandon(self, folder: str) -> None:
        """Delete an incomplete checkpoint."""
        self.world.saved.pop(f"{folder}/buffer", None)

    def _fails(self) -> bool:
        """Draw whether a write fails."""
        every = self.world.schedule.failing_checkpoints
        return bool(every and not self.world.calm and not self.world.rng.randrange(2 * every))


# ------------------------------------------------------------------------------------------------ the world


class WatchedShards(ReplayClient):
    """Replay client that reports accepted fragments and their round to the world."""

    world: World

    async def add(self, fragments: Any) -> Any:
        """Add fragments and report the accepted ones."""
        outcomes = await super().add(fragments)
        for (player, ref), error in zip(fragments, outcomes, strict=True):
            if error is None:
                _, fragment = ref.outcome.result().value  # also if it was lost since
                self.world.record_accepted(player, fragment)
        return outcomes


class World:
    """Run with its nodes, workers and checkpoints over all legs, and the expected contents of the replay.

    Args:
        schedule: settings and disasters of the run.
    """

    def __init__(self, schedule: Schedule) -> None:
        """Start without a driver."""
        self.schedule = schedule
        self.rng = random.Random(f"world {schedule.seed}")
        self.checkpoints: list[Checkpoint] = []
        self.saved: dict[str, dict[int, Rows]] = {}  # by folder and shard
        self.disks: dict[tuple[int, int], Rows] = {}  # by node and shard
        self.taken: dict[int, Played] = {}  # fragments that the replay reported as added, by number
        self.rounds: list[dict[int, int]] = []  # numbers of each round's fragments, by player
        self.numbers = 0
        self.happened: Counter[str] = Counter()

    # ----------------------------------------------------------------------------------------- one leg

    def begin(self, disasters: tuple[Disaster, ...]) -> None:
        """Make a new driver and its workers; call it within its event loop."""
        self.disasters, self.calm = disasters, not disasters
        self.actors: list[Placed] = []
        self.gone: set[asyncio.Future[Outcome]] = set()
        self.nodes = set(range(self.schedule.nodes))
        self.draining: set[int] = set()
        self.where: dict[int, int] = {}  # players
        config, clock = self.schedule.config, VirtualClock()
        start = self.checkpoints[-1] if self.checkpoints else None
        self.taken, self.rounds = (dict(start.taken), copy.deepcopy(start.rounds)) if start else ({}, [])
        if start is None:
            self.disks.clear()  # a new run has a new folder
        stats = RunStats.from_state_dict(copy.deepcopy(start.stats), 0.0) if start else RunStats(Counters(), 0.0)
        players = PlayerGroup(
            config.num_players, self.make_player, stats.counters.incarnations, start.players if start else {}
        )
        shards = [self.make_shard(number, 0) for number in range(self.schedule.shards)]
        data = config.algo.data()
        replay = WatchedShards(shards, (data.batch_size or 1) if data.is_off_policy else 1, 0, self.make_shard)
        replay.world = self
        trainers = LearnerGroup(self.place("trainer", Learner(self)), self.make_trainers, not data.is_off_policy)
        self.store, self.reporter = CheckpointStore(self), RecordingReporter()
        replay.newest_save = lambda: self.store.newest_buffer
        self.run = Run(config, players, replay, trainers, self.reporter, self.store, stats, clock, self.moves)
        self.run.checkpointing.rest = 0.0

    async def play_leg(self) -> str:
        """Run one driver; return `done`, `stopped`, `killed`, or the reason of its failure."""
        start = self.checkpoints[-1] if self.checkpoints else None
        for disaster in self.disasters:
            asyncio.get_running_loop().call_later(disaster.time, self.apply, disaster)
        self.driver = asyncio.ensure_future(self.drive(start))
        try:
            await self.driver
        except asyncio.CancelledError:
            return "killed"
        except RunFailedError as error:
            return error.reason
        return "stopped" if self.run.stopping.is_set() else "done"

    async def drive(self, start: Checkpoint | None) -> None:
        """Load the checkpoint, if there is one, and train."""
        if start is not None:  # like the launcher
            try:
                await self.run.trainers.restore(start.snapshot.data)
                if self.store.keeps_buffer:
                    await self.run.replay.load(f"{start.folder}/buffer")
            except (LostError, DataLostError) as error:
                raise RunFailedError(f"the checkpoint can't be loaded: {error}") from error
        await self.run.train()

    # --------------------------------------------------------------------------------------- placement

    def place(self, name: str, target: Any, node: int | None = None) -> Placed:
        """Place an actor on a node, by default on a random one that isn't being drained."""
        choices = sorted(self.nodes - self.draining) or sorted(self.nodes)
        return Placed(self, name, target, self.rng.choice(choices) if node is None else node)

    def make_player(self, number: int, incarnation: int) -> Placed:
        """Make a player."""
        handle = self.place(f"player {number}", Player(self, number, incarnation))
        self.where[number] = handle.node
        return handle

    def make_shard(self, number: int, incarnation: int) -> Placed:
        """Make a shard, on the node that has its files if they survive."""
        choices = sorted(self.nodes)
        there = [node for node in choices if (node, number) in self.disks]
        node = there[0] if there and self.schedule.mapped else self.rng.choice(choices)
        rows = self.disks.setdefault((node, number), Rows()) if self.schedule.mapped else Rows()
        return self.place(f"shard {number}", Shard(self, number, rows), node)

    async def make_trainers(self, incarnation: int) -> Placed:
        """Make a trainer group."""
        await asyncio.sleep(self.ticks())
        return self.place("trainer", Learner(self))

    async def moves(self, waited: float) -> dict[int, str]:
        """Return the players on nodes that are being drained."""
        return {number: "the node is being drained" for number, node in self.where.items() if node in self.draining}

    def ticks(self) -> float:
        """Return a random duration in ticks, which is seldom long."""
        return float(self.rng.randrange(40) if self.rng.random() < 0.05 else self.rng.randrange(6))

    def next_number(self) -> int:
        """Return a new number."""
        self.numbers += 1
        return self.numbers

    # --------------------------------------------------------------------------------------- disasters

    def apply(self, disaster: Disaster) -> None:
        """Apply a disaster."""
        if disaster.kind == "kill":
            self.driver.cancel()
        elif disaster.kind == "stop":
            self.run.stop(patience=20.0)
        elif disaster.kind in ("node", "drain", "return"):
            self.apply_to_node(disaster)
        else:
            for actor in self.victims(disaster):
                actor.die_soon(disaster.unheard)
        self.happened[disaster.kind] += 1

    def victims(self, disaster: Disaster) -> list[Placed]:
        """Return the workers that a disaster affects."""
        kind = "player" if disaster.kind == "players" else disaster.kind
        found = [actor for actor in self.actors if actor.name.startswith(kind)]
        return found if disaster.kind == "players" or not found else [found[disaster.which % len(found)]]

    def apply_to_node(self, disaster: Disaster) -> None:
        """Drain a node, return it, or let it die with its workers, files and results."""
        others = range(1, self.schedule.nodes)
        if not others:
            return
        node = others[disaster.which % len(others)]
        if disaster.kind == "drain":
            self.draining |= {node} & self.nodes
            return
        if disaster.kind == "return":
            self.nodes.add(node)
            return
        self.nodes.discard(node)
        self.draining.discard(node)
        self.disks = {place: rows for place, rows in self.disks.items() if place[0] != node}
        for actor in [actor for actor in self.actors if actor.node == node]:
            self.gone.update(actor.results)
            actor.die(DiedError(f"{actor.name} died with its node"))

    def record_accepted(self, player: int, fragment: Played) -> None:
        """Record that the replay accepted a fragment."""
        version, config = self.run.counters.version, self.schedule.config
        assert fragment.stream[0] == player
        assert 0 <= version - fragment.version <= config.max_staleness, "staler than allowed"
        self.rounds += [{} for _ in range(version + 1 - len(self.rounds))]
        lost = self.rounds[version].get(player)
        if lost is not None and lost != fragment.number:
            del self.taken[lost]  # lost with its node before it was used
        self.taken[fragment.number] = fragment
        self.rounds[version][player] = fragment.number


# ------------------------------------------------------------------------------------------------ invariants


def play(schedule: Schedule) -> World:
    """Simulate a schedule to its end.

    Raises:
        AssertionError: an invariant doesn't hold.
        StuckError: the run never ends.
    """
    world = World(schedule)
    for disasters in (*schedule.legs, ()):

        async def main(disasters: tuple[Disaster, ...] = disasters) -> str:
            """Run one driver."""
            world.begin(disasters)
            return await world.play_leg()

        outcome = run_virtually(main)
        check(world, outcome)
        if outcome == "done":
            return world
    raise AssertionError(f"without disasters the run ended with: {outcome}")


def check(world: World, outcome: str) -> None:
    """Check the invariants at the end of a driver."""
    if outcome not in ("done", "stopped", "killed"):
        check_failure(world, outcome)
        return
    if outcome == "killed":
        return
    check_counters(world)
    check_rows(world)
    check_learning(world, outcome)
    stored = world.checkpoints[-1].stats["counters"]
    late = {"restarts", "trainer_restarts", "buffer_restarts"}  # deaths during the last checkpoint are counted after it
    assert {name: count for name, count in vars(world.run.counters).items() if stored[name] != count}.keys() <= late
    if outcome == "done":
        assert world.run.counters.policy_steps >= world.schedule.config.run.total_steps


def check_failure(world: World, reason: str) -> None:
    """Check that the run had a reason to fail."""
    assert not world.calm, reason
    kinds = {disaster.kind for disaster in world.disasters}
    if "no checkpoint could be written" in reason:  # the last one
        assert world.schedule.failing_checkpoints or kinds & {"shard", "trainer", "node"}, reason
    elif "the checkpoint can't be loaded" in reason:  # a worker died while it was loaded
        assert kinds & {"shard", "trainer", "node"}, reason
    else:  # a rollout and the trainers that had used it
        assert isinstance(world.schedule.config.algo.data(), OnPolicy) and "node" in kinds, reason


def check_counters(world: World) -> None:
    """Check that the counters equal the sums over the accepted fragments."""
    counters, taken = world.run.counters, list(world.taken.values())
    if not world.schedule.config.algo.data().is_off_policy:  # an incomplete rollout is dropped at the end
        taken = [world.taken[number] for each in world.rounds[: counters.version] for number in each.values()]
    assert counters.policy_steps == sum(fragment.policy_steps for fragment in taken)
    assert counters.rows == sum(fragment.rows for fragment in taken)


def check_rows(world: World) -> None:
    """Check that the replay holds each accepted row once, except rows that are counted as lost."""
    schedule, run = world.schedule, world.run
    if not schedule.config.algo.data().is_off_policy:
        return
    shards = {int(actor.name[6:]): actor for actor in world.actors if actor.name.startswith("shard")}
    held: list[Played] = []
    for number, actor in shards.items():
        fragments = actor.target.rows.fragments
        assert all(fragment.stream[0] % schedule.shards == number for fragment in fragments)
        check_streams(fragments)
        held += fragments
    names = [
        (fragment.stream, row) for fragment in held for row in range(fragment.first, fragment.first + fragment.rows)
    ]
    assert len(names) == len(set(names)), "a row is stored twice"
    reported = [fragment for fragment in held if fragment.number in world.taken]
    # If a shard died after it wrote a fragment to its files and before its answer, the fragment may be lost as well.
    assert len(reported) == len(held) or (schedule.mapped and schedule.loses_files), (
        "a row is stored that was never reported"
    )
    lost = sum(fragment.rows for fragment in world.taken.values()) - sum(fragment.rows for fragment in reported)
    alive = all(actor.dead is None for actor in shards.values())
    if alive:
        unreported = (len(held) - len(reported)) * schedule.config.fragment_rows * schedule.config.env.num_envs
        assert run.lost_rows == max(0, lost - unreported), "rows were lost and not counted"
    if alive and schedule.mapped and not schedule.loses_files:
        assert not lost, "rows in files were lost"


def check_streams(fragments: list[Played]) -> None:
    """Check that the fragments of a stream are in order and contiguous, except after a gap."""
    ends: dict[StreamKey, tuple[int, int]] = {}
    for fragment in fragments:
        sequence, first = ends.get(fragment.stream, (0, 0))
        if fragment.sequence == sequence:
            assert fragment.first == first, "a stream was joined to another"
        else:
            assert fragment.sequence > sequence and fragment.first > first, "a stream goes back"
        ends[fragment.stream] = (fragment.sequence + 1, fragment.first + fragment.rows)


def check_learning(world: World, outcome: str) -> None:
    """Check that the replay ratio is exact and that each rollout was used once."""
    config, counters = world.schedule.config, world.run.counters
    if isinstance(config.algo.data(), OnPolicy):
        minibatches = config.algo.data().minibatches(config.round_rows)
        assert counters.gradient_steps == counters.version * config.algo.data().epochs * minibatches
        learned = world.checkpoints[-1].snapshot.data[1]
        assert [set(each) for each in learned] == [set(each.values()) for each in world.rounds[: counters.version]]
        assert all(len(each) == config.num_players for each in learned)
        return
    due = floor(
        Fraction(str(config.algo.data().replay_ratio))
        * max(0, counters.policy_steps - config.algo.data().learning_starts)
    )
    assert counters.gradient_steps <= due
    if outcome == "done" and world.run.replay.is_ready:
        assert counters.gradient_steps == due, "the ratio isn't exact"


# ------------------------------------------------------------------------------------------------ by command


def play_or_print(seed: int) -> World | None:
    """Simulate the schedule of a seed; print its failure, if any."""
    try:
        return play(draw_schedule(seed))
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        print(f"seed {seed}: {type(error).__name__}: {error} ({where.name}:{where.lineno}: {where.line})")
        return None


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.helpers.disasters", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first schedule")
    arguments = parser.parse_args()
    began, failed, happened = time.monotonic(), [], Counter[str]()
    for seed in range(arguments.seed, arguments.seed + arguments.schedules):
        world = play_or_print(seed)
        happened += world.happened if world else Counter()
        failed += [] if world else [seed]
    seconds = time.monotonic() - began
    print(
        f"{arguments.schedules} schedules in {seconds:.0f} s, {len(failed)} failed; "
        + ", ".join(f"{count} x {kind}" for kind, count in happened.most_common())
    )
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
