"""Measure gradient steps: eager and compiled, in float32 and in bfloat16.

All learners take turns on the same dummy data and return the policy's weights after every call, as in a run.
`python -m benchmarks updates --device cuda --out benchmarks/results/h100`
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium import spaces

from benchmarks.harness import record
from benchmarks.harness.bounds import Bound
from benchmarks.harness.record import Json
from benchmarks.harness.turns import Rounds, as_json, in_turn, print_rounds, ratios
from sheeprl.actors.fabric import build_learner, local_fabric
from sheeprl.actors.learner import Learner
from sheeprl.actors.warmup import dummy_batches
from sheeprl.algos.base import Spaces
from sheeprl.buffer.storage import Rows
from sheeprl.config import defaults
from sheeprl.config.loading import validate
from sheeprl.config.schema import Config

OBSERVATION = spaces.Box(-np.inf, np.inf, (17,), np.float32)  # HalfCheetah's, as its six actions
LASTS = 1.0  # minimum seconds of a measurement


@dataclass(frozen=True)
class Case:
    """Gradient steps of one algorithm and size.

    Args:
        title: title in the table.
        algo: arguments of the algorithm.
        action: action space.
        steps: gradient steps of a call.
    """

    title: str
    algo: Json
    action: gymnasium.Space[object]
    steps: int


CASES = {
    "ppo": Case(
        "PPO, 64-wide networks, minibatches of 64",
        {"name": "ppo", "rollout_steps": 128, "batch_size": 64, "epochs": 10},
        spaces.Discrete(2),
        80,
    ),
    "sac": Case(
        "SAC, 256-wide networks, batches of 256",
        {"name": "sac", "batch_size": 256},
        spaces.Box(-1.0, 1.0, (6,)),
        4,
    ),
    "sac_large": Case(
        "SAC, 1024-wide networks, batches of 4096",
        {"name": "sac", "batch_size": 4096, "hidden_sizes": [1024, 1024]},
        spaces.Box(-1.0, 1.0, (6,)),
        4,
    ),
}
EAGER, COMPILED = "one operation after the other", "compiled"


def resolved(case: Case, device: str, threads: int, is_compiled: bool, precision: str) -> Config:
    """Return the configuration of a learner."""
    trainer = {"accelerator": device, "threads": threads, "compile": is_compiled, "precision": precision}
    tree = {"algo": case.algo, "env": {"id": "none", "num_envs": 4}, "trainer": trainer, "run": {"mode": "coupled"}}
    return defaults.fill_in(validate(tree))


def data_of(case: Case, config: Config, learner: Learner) -> tuple[int | None, Rows]:
    """Return `order` and block of a call, filled with random numbers."""
    order, block = dummy_batches(config, learner.algorithm, case.steps)
    rng = np.random.default_rng(0)
    noisy = (key for key, values in block.items() if values.dtype == np.float32)
    return order, block | {key: rng.standard_normal(block[key].shape, np.float32) for key in noisy}


def timed(learner: Learner, case: Case, order: int | None, block: Rows) -> Callable[[], float]:
    """Return a function that measures the microseconds of a gradient step."""

    def measure() -> float:
        """Measure one round."""
        began, taken = time.perf_counter(), 0
        while (seconds := time.perf_counter() - began) < LASTS or not taken:
            learner.update(case.steps, 0.0, order, block)
            learner.weights()  # copied to the CPU, so all steps have finished
            taken += case.steps
        return 1e6 * seconds / taken

    return measure


def measure_case(name: str, device: str, threads: int, precisions: Sequence[str], rounds: int) -> Json:
    """Measure eager and compiled steps in all precisions, in turn."""
    case, programs = CASES[name], dict[str, Callable[[], float]]()
    for precision, is_compiled in itertools.product(precisions, (False, True)):
        config = resolved(case, device, threads, is_compiled, precision)
        learner = build_learner(config, Spaces(OBSERVATION, case.action), local_fabric(config))
        order, block = data_of(case, config, learner)
        info, _ = learner.update(case.steps, 0.0, order, block)
        if is_compiled and learner.compiled is None:
            raise SystemExit(f"error: {'; '.join(info.notes)}")
        way = COMPILED if is_compiled else EAGER
        programs[f"{way}, {precision}, µs"] = timed(learner, case, order, block)
    measured = in_turn(programs, rounds)
    bounds = list(compared(measured, precisions))
    title = f"{case.title}, on {device}"
    print_rounds(title, measured, bounds)
    return as_json(name, title, measured, bounds)


def compared(measured: Rounds, precisions: Sequence[str]) -> list[Bound]:
    """Return the ratios of eager and compiled steps and of the precisions, and the steps per second."""
    found = []
    for precision in precisions:
        eager, fast = (measured[f"{way}, {precision}, µs"] for way in (EAGER, COMPILED))
        found.append(Bound.of(f"compiled, {precision}: gradient steps/s", [1e6 / value for value in fast]))
        found.append(Bound.of(f"compiled, {precision}: times as fast as {EAGER}", ratios(eager, fast)))
    if len(precisions) > 1:
        first, *others = (measured[f"{COMPILED}, {precision}, µs"] for precision in precisions)
        for precision, other in zip(precisions[1:], others, strict=True):
            found.append(Bound.of(f"compiled, {precision}: times as fast as {precisions[0]}", ratios(first, other)))
    return found


def main(args: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks updates", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--precisions", nargs="+", default=["32-true", "bf16-mixed"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the result")
    given = parser.parse_args(args)
    described = record.describe("benchmarks") | {"rounds": given.rounds, "device": given.device}
    cases: list[Json] = []
    for name in given.only:
        cases.append(measure_case(name, given.device, given.threads, given.precisions, given.rounds))
        record.write(given.out / "updates.json", described | {"cases": cases})
    print(f"\n{given.out / 'updates.json'}")


if __name__ == "__main__":
    main()
