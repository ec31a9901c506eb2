"""Measure the overhead of the driver per fragment, with up to 2,000 players, and of sending new weights to many.

`python -m benchmarks driving`; `--only driver` needs no Ray.
"""

from __future__ import annotations

import asyncio
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.cases.fakes import make_run
from benchmarks.harness import turns
from benchmarks.harness.bounds import Bound
from benchmarks.harness.record import Json

PLAYERS = 1000
RUN_ROUNDS = 10  # of a run that measures the driver
SEATS = (10, 50, 200, 1000, 2000)
ROUNDS_OF_SEATS, HOSTS_OF_SEATS = 5, 2
PLAYERS_OF_WEIGHTS = 16
WIDTH = 3160  # of both hidden layers, for 10M parameters
PARAMETERS = 5 * WIDTH + WIDTH * (WIDTH + 1) + 2 * (WIDTH + 1)


# ---------------------------------------------------------------------------------------------- driver


def fragments_per_second(clock: Callable[[], float], shards: int) -> float:
    """Measure a run whose players, replay and trainers answer at once."""

    async def train() -> None:
        """Train to the end of the run."""
        await make_run(PLAYERS, RUN_ROUNDS, shards).train()

    began = clock()
    asyncio.run(train())
    return PLAYERS * RUN_ROUNDS / (clock() - began)


def stats(rounds: int) -> Json:
    """Measure the driver with 1,000 players."""
    measured = turns.in_turn(
        {
            "one shard": functools.partial(fragments_per_second, time.perf_counter, 1),
            "one shard, by CPU time": functools.partial(fragments_per_second, time.process_time, 1),
            "eight shards": functools.partial(fragments_per_second, time.perf_counter, 8),
        },
        rounds,
    )
    bounds = [Bound.of("fragments per second", measured["one shard"], at_least=4000)]
    title = f"{PLAYERS} players that answer at once, fragments of 64 rows of 4 environments, fragments per second"
    turns.print_rounds(title, measured, bounds)
    return turns.as_json("driver", title, measured, bounds)


# ------------------------------------------------------------------------------------------------ seats


def seats(rounds: int) -> Json:
    """Measure the driver with 10 to 2,000 players on two hosts of Ray, and check a model of its time."""
    from benchmarks.cases.seats import play, session

    measured: turns.Rounds = {}
    with session():
        for players in SEATS:
            name = f"{players} players"
            costs = [play(players, ROUNDS_OF_SEATS, HOSTS_OF_SEATS) for _ in range(rounds)]
            measured[f"{name}, by wall time"] = [each.seconds / each.rounds for each in costs]
            measured[f"{name}, by CPU time of the driver"] = [each.cpu_seconds / each.rounds for each in costs]
    by_cpu = [statistics.median(measured[f"{players} players, by CPU time of the driver"]) for players in SEATS]
    fixed, each = fit(SEATS, by_cpu)
    errors = [abs(fixed + each * players - seconds) / seconds for players, seconds in zip(SEATS, by_cpu, strict=True)]
    bounds = [
        Bound("milliseconds of the driver's CPU per round", 1000 * fixed),
        Bound("milliseconds of the driver's CPU per fragment", 1000 * each),
        Bound("largest relative error of this model", max(errors)),
    ]
    title = f"players that answer at once on {HOSTS_OF_SEATS} hosts of Ray, seconds per round"
    turns.print_rounds(title, measured, bounds)
    return turns.as_json("seats", title, measured, bounds)


def fit(sizes: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """Return a and b of the model a + b x size, with the least relative errors."""
    design = np.array([[1 / each, size / each] for size, each in zip(sizes, seconds, strict=True)])
    fixed, slope = np.linalg.lstsq(design, np.ones(len(sizes)), rcond=None)[0]
    return float(fixed), float(slope)


# --------------------------------------------------------------------------------------------- weights


def copy_into(held: dict[str, Any], array: Any) -> None:
    """Copy an array into memory of the process, the minimum that a worker must do with weights."""
    if "flat" not in held:
        held["flat"] = np.zeros_like(array)
    np.copyto(held["flat"], array)


class Pushes:
    """Trainer and players of a run, and processes that only copy one array, for comparison.

    Raises:
        RuntimeError: Ray can't be started.
    """

    def __init__(self) -> None:
        """Start Ray and all processes."""
        import ray

        from sheeprl.actors.ray.actors import PlayerActor, TrainerActor
        from sheeprl.config import checks

        class Copier:
            """Process that copies an array."""

            def __init__(self) -> None:
                """Start without memory."""
                self.held: dict[str, Any] = {}

            def copy(self, array: Any) -> None:
                """Copy the array."""
                copy_into(self.held, array)

        tree = {
            "algo": {"name": "ppo", "hidden_sizes": [WIDTH, WIDTH]},
            "env": {"id": "CartPole-v1", "num_envs": 1},
            "run": {"mode": "decoupled"},
            "players": {"num": PLAYERS_OF_WEIGHTS},
            "trainer": {"accelerator": "cpu", "threads": 1},
        }
        found = checks.check(tree)
        ray.init("local", num_cpus=64, include_dashboard=False, log_to_driver=False)
        self.ray, numbers = ray, range(PLAYERS_OF_WEIGHTS)
        player, trainer = ray.remote(PlayerActor), ray.remote(TrainerActor)
        self.trainer = trainer.remote(found.config, found.spaces, 0, 1)
        self.players = [player.remote(found.config, found.spaces) for _ in numbers]
        ray.get([each.assign.remote(number, 0) for number, each in enumerate(self.players)])
        self.copiers = [ray.remote(Copier).remote() for _ in numbers]
        self.flat = np.random.default_rng(0).random(PARAMETERS, np.float32)
        ray.get(self.trainer.join.remote(*ray.get(self.trainer.address.remote())))

    def put_and_copy(self) -> float:
        """Return the seconds of one `ray.put` of the weights as one array and a copy in each process."""
        began = time.perf_counter()
        ref = self.ray.put(self.flat)
        self.ray.get([copier.copy.remote(ref) for copier in self.copiers])
        return time.perf_counter() - began

    def play(self, weights: Any = None) -> float:
        """Return the seconds until all players have collected a row."""
        began = time.perf_counter()
        args = (1, weights, 0, "explore", 0.0)
        requests = [[(number, False, None)] for number in range(len(self.players))]
        pairs = [
            (player.collect.options(num_returns=2), own) for player, own in zip(self.players, requests, strict=True)
        ]
        self.ray.get([collect.remote(own, *args)[0] for collect, own in pairs])
        return time.perf_counter() - began

    def push(self) -> float:
        """Return the seconds until all players have collected a row with new weights, as in a run."""
        began = time.perf_counter()
        _, weights = self.trainer.weights.options(num_returns=2).remote()
        self.play(weights)
        return time.perf_counter() - began


def weights(rounds: int) -> Json:
    """Measure the transfer of 10M parameters to 16 players on one node."""
    pushes = Pushes()
    try:
        measured = turns.in_turn(
            {"put and copy": pushes.put_and_copy, "push and a row": pushes.push, "a row": pushes.play}, rounds
        )
    finally:
        pushes.ray.shutdown()
    pushed = [push - play for push, play in zip(measured["push and a row"], measured["a row"], strict=True)]
    ratios = turns.ratios(pushed, measured["put and copy"])
    bounds = [Bound.of("push, less the row, over one put and one copy each", ratios, at_most=1.5)]
    title = f"{PARAMETERS / 1e6:.1f}M parameters to {PLAYERS_OF_WEIGHTS} players on one node, seconds"
    turns.print_rounds(title, measured, bounds)
    return turns.as_json("weights", title, measured, bounds)


CASES: dict[str, Callable[[int], Json]] = {"driver": stats, "seats": seats, "weights": weights}


def main(args: Sequence[str] | None = None) -> None:
    """Run the cases."""
    turns.measure_cases("driving", (__doc__ or "").splitlines()[0], CASES, 7, args)


if __name__ == "__main__":
    main()
