"""Runs of many players on Ray actors that answer at once, with counts of the calls and bytes of the driver."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import ray
from ray import cloudpickle

from benchmarks.cases.fakes import FakeHost, FakeReplay, FakeTrainers, Handles, make_run
from sheeprl.actors.hosts import HostGroup
from sheeprl.actors.ray import internals
from sheeprl.actors.ray.handle import RayHandle, RayRef
from sheeprl.utils.process import run_in_loop

T = TypeVar("T")


@dataclass
class Costs:
    """Costs of a run, without its start.

    Args:
        players: number of players.
        rounds: number of rounds.
        seconds: wall time.
        cpu_seconds: CPU time of the driver.
        calls: calls of the driver, by method.
        sent: bytes of the arguments of these calls, without the results of other calls.
    """

    players: int
    rounds: int
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    calls: Counter[str] = field(default_factory=Counter)
    sent: int = 0

    @property
    def fragments(self) -> int:
        """Return the number of fragments."""
        return self.players * self.rounds


class CountingHandle(RayHandle):
    """A handle that counts its calls and their bytes."""

    costs: Costs

    def call(self, method: Callable[..., T], *args: Any, **kwargs: Any) -> RayRef[T]:
        """Count and start a method."""
        self._count(method, args)
        return super().call(method, *args, **kwargs)

    def call_parts(self, method: Callable[..., Sequence[Any]], count: int, *args: Any, **kwargs: Any) -> list[Any]:
        """Count and start a method."""
        self._count(method, args)
        return super().call_parts(method, count, *args, **kwargs)

    def _count(self, method: Callable[..., Any], args: Sequence[Any]) -> None:
        """Count a call."""
        plain = [arg for arg in args if isinstance(arg, (bool, int, float, str, list, dict, type(None)))]
        self.costs.calls[method.__name__] += 1
        self.costs.sent += len(cloudpickle.dumps(plain))


@contextmanager
def session() -> Iterator[None]:
    """Start a Ray for many small actors within the block."""
    with internals.without_idle_services():
        ray.init("local", num_cpus=64, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def play(players: int, rounds: int, hosts: int, counts: bool = False) -> Costs:
    """Run players on hosts; return the costs of all rounds after the first two.

    Args:
        players: number of players.
        rounds: measured rounds.
        hosts: number of hosts.
        counts: True to count calls and bytes, which takes time.
    """
    costs, measured, kind = Costs(players, rounds), list[Costs](), CountingHandle if counts else RayHandle

    def start(actor: type[Any]) -> RayHandle:
        """Start an actor."""
        handle = kind(ray.remote(actor).options(num_cpus=0, enable_task_events=False).remote())
        if isinstance(handle, CountingHandle):
            handle.costs = costs
        return handle

    async def train() -> None:
        """Train, and note the costs from the third round on."""
        group = HostGroup(players, hosts, hosts, lambda name: start(FakeHost))
        group.start()
        await group.wait_for_least()
        handles = Handles(group.make_player, lambda: start(FakeReplay), lambda: start(FakeTrainers))
        run = make_run(players, rounds + 2, handles=handles)
        publish = run.publish

        async def publish_and_begin() -> None:
            """Publish; reset the costs at the begin of the third round."""
            if run.counters.version == 2:
                costs.calls.clear()
                costs.sent = 0
                costs.seconds, costs.cpu_seconds = -time.perf_counter(), -time.process_time()
            await publish()

        run.publish = publish_and_begin  # type: ignore[method-assign]
        await run.train()
        costs.seconds += time.perf_counter()
        costs.cpu_seconds += time.process_time()
        measured.append(replace(costs, calls=costs.calls.copy()))  # without the calls that end the players
        run.players.close()
        group.close()
        for handle in (*run.replay.handles, run.trainers.handle):
            handle.close()

    run_in_loop(train)
    return measured[0]
