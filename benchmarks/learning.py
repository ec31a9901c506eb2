"""Train with several seeds, evaluate the final policies and compare their mean return with a required one.

`python -m benchmarks learning ppo_cartpole --mode coupled`
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.harness import record
from benchmarks.harness.record import Json

MIN_SEEDS = 3  # fewer seeds give no verdict


@dataclass(frozen=True)
class Gate:
    """Mean return that an algorithm must reach.

    Args:
        name: name of the gate.
        config: configuration file in the repository.
        episodes: evaluation episodes of each seed's final policy.
        threshold: required mean over the seeds of their mean returns.
        overrides: overrides of the file.
    """

    name: str
    config: str
    episodes: int
    threshold: float
    overrides: tuple[str, ...] = ()


GATES = {
    gate.name: gate
    for gate in (
        Gate("ppo_cartpole", "configs/ppo.yaml", 100, 475, ("run.total_steps=100000",)),
        Gate("sac_pendulum", "configs/sac.yaml", 100, -170, ("run.total_steps=20000",)),
        Gate("ppo_pendulum", "configs/ppo_pendulum.yaml", 100, -250, ("run.total_steps=100000",)),
        Gate("sac_halfcheetah", "configs/sac_halfcheetah.yaml", 20, 5000, ("run.total_steps=300000",)),
    )
}


@dataclass(frozen=True)
class SeedResult:
    """Result of one seed.

    Args:
        seed: seed of the run, from which the evaluation's seeds are derived.
        mean: mean return of the final policy.
        std: standard deviation of its returns.
        policy_steps: policy steps of the training.
        gradient_steps: gradient steps of the training.
        wall_time: seconds of the run's loop.
        process_time: seconds of the whole process, start-up included.
        curve: pairs of policy steps and the mean return of the training episodes that ended since the last pair.
        commit: commit of the code; "" stands for that of the whole result.
    """

    seed: int
    mean: float
    std: float
    policy_steps: int
    gradient_steps: int
    wall_time: float
    process_time: float
    curve: list[tuple[int, float]]
    commit: str = ""


class StepFailedError(RuntimeError):
    """Raised when a command fails; the message names it and ends with its output."""


def sheeprl(*words: str) -> str:
    """Run a command of this checkout's `sheeprl` and return its stdout.

    Raises:
        StepFailedError: its exit code isn't 0.
    """
    command = [sys.executable, "-m", "sheeprl", *words]
    done = subprocess.run(command, cwd=record.ROOT, env=record.environment(), capture_output=True, text=True)
    if done.returncode:
        printed = (done.stdout + done.stderr)[-4000:]
        raise StepFailedError(f"{' '.join(command)}: exit code {done.returncode}\n{printed}")
    return done.stdout


def run_seed(gate: Gate, mode: str, seed: int, overrides: Sequence[str], run_dir: Path) -> SeedResult:
    """Train and evaluate one seed."""
    settings = [*gate.overrides, *overrides, f"run.seed={seed}", f"run.mode={mode}", f"run.dir={run_dir}"]
    began = time.monotonic()
    sheeprl("run", gate.config, *settings, "eval.episodes=0", "log.level=warning")
    process_time = time.monotonic() - began
    lines = record.read_metrics(run_dir)
    end = next(line for line in reversed(lines) if line.get("event") == "end")
    evaluation = json.loads(sheeprl("eval", str(run_dir), "--episodes", str(gate.episodes), "--json"))
    if evaluation["policy_steps"] != end["policy_steps"] or len(evaluation["returns"]) != gate.episodes:
        raise StepFailedError(f"{run_dir}: the evaluation isn't of the final policy or has missing episodes")
    return SeedResult(
        seed,
        round(evaluation["mean_return"], 3),
        round(evaluation["std_return"], 3),
        end["policy_steps"],
        end["gradient_steps"],
        round(end["wall_time"], 1),
        round(process_time, 1),
        learning_curve(lines),
    )


def learning_curve(lines: Sequence[Json], key: str = "Rewards/rew_avg") -> list[tuple[int, float]]:
    """Return policy steps and value of a metric on the lines that have it."""
    return [(line["step"], round(line[key], 3)) for line in lines if line.get(key) is not None]


def run_gate(
    gate: Gate,
    mode: str,
    seeds: Sequence[int],
    overrides: Sequence[str],
    threads: int | None = None,
    others: Callable[[], list[SeedResult]] = list,
) -> Json:
    """Run all seeds one after the other, and judge them together with other seeds that have results by then."""
    settings = [*overrides, *([] if threads is None else [f"trainer.threads={threads}"])]
    results: list[SeedResult] = []
    described = record.describe(gate.config)  # before the runs, so it names the code that they use
    for seed in seeds:
        folder = Path(tempfile.mkdtemp(prefix=f"{gate.name}_{mode}_{seed}_"))
        results.append(run_seed(gate, mode, seed, settings, folder / "run"))
        shutil.rmtree(folder)  # the folder of a failed run remains for inspection
        print_row(results[-1])
    results = sorted([*results, *others()], key=lambda result: result.seed)
    mean = statistics.fmean(result.mean for result in results)
    # A trial with changed arguments or too few seeds gets no verdict.
    counts = len(results) >= MIN_SEEDS and not overrides
    return {
        "gate": asdict(gate) | {"overrides": list(gate.overrides)},
        "mode": mode,
        "seeds": [result.seed for result in results],
        "mean": round(mean, 3),
        "std_over_seeds": round(statistics.stdev(result.mean for result in results), 3) if len(results) > 1 else None,
        "met": bool(mean >= gate.threshold) if counts else None,
        **described,
        "per_seed": [asdict(result) for result in results],
    }


def seeds_of(path: Path) -> list[SeedResult]:
    """Return the seeds of an existing result, each with the commit of its code; none without a result."""
    if not path.exists():
        return []
    result = json.loads(path.read_text(encoding="utf-8"))
    return [SeedResult(**(seed | {"commit": seed.get("commit") or result["commit"]})) for seed in result["per_seed"]]


def print_row(result: SeedResult) -> None:
    """Print the result of a seed."""
    print(
        f"{result.seed:>6}  {result.mean:>10.1f} ± {result.std:<8.1f}  {result.policy_steps:>12,}  "
        f"{result.gradient_steps:>14,}  {result.wall_time:>8.0f} s",
        flush=True,
    )


def main(args: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks learning", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("gate", choices=GATES, help="what to run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings on top: a trial, without a verdict")
    parser.add_argument("--mode", choices=("coupled", "decoupled"), default="decoupled")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--add", action="store_true", help="keep the other seeds that the result has")
    parser.add_argument("--threads", type=int, help="CPU threads of the learner: speed, not the algorithm")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the result")
    given = parser.parse_intermixed_args(args)
    if given.overrides and given.out.resolve() == record.RESULTS:
        parser.error("changed settings make a trial; use another --out")
    if len(set(given.seeds)) < len(given.seeds):
        parser.error("--seeds contains a seed twice")
    gate = GATES[given.gate]
    path = given.out / f"{gate.name}_{given.mode}.json"
    others = (lambda: [seed for seed in seeds_of(path) if seed.seed not in given.seeds]) if given.add else list
    print(f"{gate.name}, {given.mode}: {gate.config}, {gate.episodes} episodes, gate ≥ {gate.threshold}")
    print("  seed      return             policy steps  gradient steps        loop", flush=True)
    try:
        result = run_gate(gate, given.mode, given.seeds, given.overrides, given.threads, others)
    except StepFailedError as error:
        sys.exit(f"error: {error}")
    record.write(path, result)
    verdict = {True: "met", False: "NOT met", None: "not judged"}[result["met"]]
    print(f"mean over {len(result['seeds'])} seeds {result['mean']:.1f}, gate ≥ {gate.threshold}: {verdict}; {path}")


if __name__ == "__main__":
    main()
