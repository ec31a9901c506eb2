"""A run over Ray whose players bring more in little time than the object store holds; how full that gets meanwhile."""

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
FRAGMENT_BYTES = (ROWS + 1) * OBS_BYTES  # too large to be sent along with the answer, which Ray does below 100 KiB
SAMPLE_BYTES = 2 * OBS_BYTES
STALENESS = PREFETCH = 1
RATIO = 0.5
BOUND = (STALENESS + 1) * PLAYERS * FRAGMENT_BYTES + (PREFETCH + 2) * CHUNK_STEPS * SAMPLE_BYTES


class Source:
    """Plays for several players, at once."""

    def __init__(self):
        shape, flags = (ROWS + 1, 1), np.zeros((ROWS + 1, 1), np.bool_)
        self.rows = {"obs": np.zeros((*shape, OBS_BYTES), np.uint8), "action": np.zeros(shape, np.int64)}
        self.rows |= {"reward": np.zeros(shape, np.float32)}
        self.rows |= {"terminated": flags, "truncated": flags, "is_first": flags}
        self.sequences = [0] * PLAYERS

    def collect(self, number, rows, weights, version, mode, progress, *checkpointing):
        self.sequences[number] += 1
        info = FragmentInfo(version, ROWS, ROWS, (), (), 0.0)
        return info, Fragment(number, 0, self.sequences[number] - 1, self.rows)


class SourceHandle:
    """One of the players of a source."""

    def __init__(self, actor, number):
        self.handle, self.number = RayHandle(actor), number

    def call_pair(self, method, *args):
        return self.handle.call_pair(method, self.number, *args)

    def close(self):
        pass


class SmallReplayActor(ReplayActor):
    def __init__(self):
        self.replay = Replay(ReplayBuffer(500), 1)


class CheapLearner:
    """Takes blocks, which Ray has laid before it, and counts."""

    def __init__(self):
        self.steps = 0

    def update(self, steps, progress, order, *blocks):
        assert sum(block.unpack()["obs"].shape[0] for block in blocks) == steps
        self.steps += steps
        return UpdateInfo(self.steps, {}, 0.0, time.perf_counter()), []

    def weights(self):
        return self.steps, {"weight": np.zeros(1)}

    def snapshot(self):
        return self.steps, np.zeros(1, np.uint8)


class NoKeeper:
    """Keeps nothing."""

    keeps_buffer, newest_buffer = False, None

    def begin(self, policy_steps):
        return "nowhere"

    async def finish(self, folder, stats, snapshot, players):
        pass

    def abandon(self, folder):
        raise AssertionError("there is nothing that could fail")


@dataclass
class Measured:
    """What a run did, and the bytes that were in the object store meanwhile, beyond those before."""

    fragments: int
    gradient_steps: int
    used: list[float]
    seconds: float


def used_bytes():
    free = ray.available_resources().get("object_store_memory", 0.0)
    return ray.cluster_resources()["object_store_memory"] - free


def measure(fragments):
    """Let so many fragments go through a run."""
    options = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0}
    sources = [ray.remote(**options)(Source).remote() for _ in range(PROCESSES)]
    replay, learner = (RayHandle(ray.remote(**options)(shell).remote()) for shell in (SmallReplayActor, CheapLearner))
    ray.get([replay.actor.status.remote(), learner.actor.weights.options(num_returns=2).remote()[0]])
    data = OffPolicy(batch_size=1, replay_ratio=RATIO, fragment_rows=ROWS)
    config = driver_config(
        data, fragments * ROWS, PLAYERS, ROWS, STALENESS, prefetch=PREFETCH, log_every=fragments * ROWS
    )
    handles = [SourceHandle(sources[number % PROCESSES], number) for number in range(PLAYERS)]
    players = PlayerGroup(PLAYERS, lambda number, life: handles[number], [])
    run = Run(config, players, ReplayClient([replay]), LearnerGroup(learner), RecordingReporter(), NoKeeper())
    before, used = used_bytes(), []

    async def watch():
        while True:
            used.append(used_bytes() - before)
            await asyncio.sleep(0.05)

    async def main():
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
