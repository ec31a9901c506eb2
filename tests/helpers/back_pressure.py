"""Measure the use of Ray's object store in a run whose players produce more than the store can hold."""

import asyncio
import time
from dataclasses import dataclass

import numpy as np
import ray

from sheeprl.actors.messages import Fragment, FragmentInfo, UpdateInfo
from sheeprl.actors.ray.actors import ReplayActor
from sheeprl.actors.ray.handle import RayHandle
from sheeprl.actors.replay import Replay
from sheeprl.algos.args import OffPolicy
from sheeprl.buffer import ReplayBuffer
from sheeprl.driver.players import PlayerGroup
from sheeprl.driver.replay import ReplayClient
from sheeprl.driver.trainers import LearnerGroup
from sheeprl.driver.updates import CHUNK_STEPS
from sheeprl.run import Run
from tests.helpers.driver_config import driver_config
from tests.helpers.simulation import RecordingReporter

PLAYERS, PROCESSES = 16, 2
ROWS, OBS_BYTES = 2, 36_000
FRAGMENT_BYTES = (ROWS + 1) * OBS_BYTES  # Ray sends results below 100 KiB with the answer; these are larger
SAMPLE_BYTES = 2 * OBS_BYTES
STALENESS = PREFETCH = 1
RATIO = 0.5
BOUND = (STALENESS + 1) * PLAYERS * FRAGMENT_BYTES + (PREFETCH + 2) * CHUNK_STEPS * SAMPLE_BYTES


class Source:
    """Actor that plays for several players."""

    def __init__(self):
        """Make the rows of all fragments."""
        shape, flags = (ROWS + 1, 1), np.zeros((ROWS + 1, 1), np.bool_)
        self.rows = {"obs": np.zeros((*shape, OBS_BYTES), np.uint8), "action": np.zeros(shape, np.int64)}
        self.rows |= {"reward": np.zeros(shape, np.float32)}
        self.rows |= {"terminated": flags, "truncated": flags, "is_first": flags}
        self.sequences = [0] * PLAYERS

    def collect(self, number, rows, weights, version, mode, progress, *checkpointing):
        """Return the next fragment of a player."""
        self.sequences[number] += 1
        info = FragmentInfo(version, ROWS, ROWS, (), (), 0.0)
        return info, Fragment(number, 0, self.sequences[number] - 1, self.rows)


class SourceHandle:
    """Handle of one player of a source."""

    def __init__(self, actor, number):
        """Store the source and the player's number."""
        self.handle, self.number = RayHandle(actor), number

    def call_pair(self, method, *args):
        """Call the source with the player's number."""
        return self.handle.call_pair(method, self.number, *args)

    def close(self):
        """Do nothing."""
        pass


class SmallReplayActor(ReplayActor):
    """Replay shard of 500 rows."""

    def __init__(self):
        """Make the buffer."""
        self.replay = Replay(ReplayBuffer(500), 1)


class CheapLearner:
    """Learner that only counts gradient steps."""

    def __init__(self):
        """Start without gradient steps."""
        self.steps = 0

    def update(self, steps, progress, order, *blocks):
        """Check the number of samples and count the steps."""
        assert sum(block.unpack()["obs"].shape[0] for block in blocks) == steps
        self.steps += steps
        return UpdateInfo(self.steps, {}, 0.0, time.perf_counter()), []

    def weights(self):
        """Return small weights."""
        return self.steps, {"weight": np.zeros(1)}

    def snapshot(self):
        """Return a small snapshot."""
        return self.steps, np.zeros(1, np.uint8)


class NoStore:
    """Checkpoint store that writes nothing."""

    keeps_buffer, newest_buffer = False, None

    def replay_place(self, folder):
        """Return the folder of the replay."""
        return f"{folder}/buffer"

    def begin(self, policy_steps):
        """Return a folder that doesn't exist."""
        return "nowhere"

    async def finish(self, folder, stats, snapshot, players):
        """Do nothing."""
        pass

    def abandon(self, folder):
        """Fail: no checkpoint can fail."""
        raise AssertionError("no checkpoint can fail")


@dataclass
class Measured:
    """Steps of a run, and samples of the bytes that it used in the object store."""

    fragments: int
    gradient_steps: int
    used: list[float]
    seconds: float


def used_bytes():
    """Return the used bytes of the object store."""
    free = ray.available_resources().get("object_store_memory", 0.0)
    return ray.cluster_resources()["object_store_memory"] - free


def measure(fragments):
    """Run until the replay has received `fragments` fragments; return the measurements."""
    options = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0}
    sources = [ray.remote(**options)(Source).remote() for _ in range(PROCESSES)]
    replay, learner = (
        RayHandle(ray.remote(**options)(actor_class).remote()) for actor_class in (SmallReplayActor, CheapLearner)
    )
    ray.get([replay.actor.status.remote(), learner.actor.weights.options(num_returns=2).remote()[0]])
    data = OffPolicy(batch_size=1, replay_ratio=RATIO, fragment_rows=ROWS)
    config = driver_config(
        data, fragments * ROWS, PLAYERS, ROWS, STALENESS, prefetch=PREFETCH, log_every=fragments * ROWS
    )
    handles = [SourceHandle(sources[number % PROCESSES], number) for number in range(PLAYERS)]
    players = PlayerGroup(PLAYERS, lambda number, life: handles[number], [])
    run = Run(config, players, ReplayClient([replay]), LearnerGroup(learner), RecordingReporter(), NoStore())
    before, used = used_bytes(), []

    async def watch():
        """Sample the used bytes."""
        while True:
            used.append(used_bytes() - before)
            await asyncio.sleep(0.05)

    async def main():
        """Train and watch."""
        watching = asyncio.ensure_future(watch())
        await run.train()
        watching.cancel()

    began = time.monotonic()
    try:
        asyncio.run(main())
    finally:
        for actor in (*sources, replay.actor, learner.actor):
            ray.kill(actor)
    counters = run.counters
    return Measured(counters.version * PLAYERS, counters.gradient_steps, used, time.monotonic() - began)
