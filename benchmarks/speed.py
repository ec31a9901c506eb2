"""Times SheepRL, decoupled and coupled, and Stable-Baselines3 at the same work, in turn on one machine.

`python -m benchmarks speed --peer-python PATH` where PATH is the Python of an environment with Stable-Baselines3.

The loop's time leaves out start-up (for SheepRL the `wall_time` of the end event, for Stable-Baselines3 `learn()`), the
process's time is all of it. Every program is timed with each number of threads asked for, and its best counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import record
from benchmarks.record import Json

PEER = "Stable-Baselines3"
MODES = {"SheepRL decoupled": "decoupled", "SheepRL coupled": "coupled"}
# Not part of the work that is compared: the other program neither evaluates nor writes checkpoints.
BARE = ("eval.episodes=0", "checkpoint.every=1000000000", "buffer.checkpoint=false", "log.level=warning")


@dataclass(frozen=True)
class Workload:
    """Something that every program does in the same way.

    Args:
        name: that the peer's script knows it by.
        title: for the table.
        config: a file in the repository.
        overrides: on top of it; what makes the work the same is said again, whatever the file says.
        steps: policy steps.
    """

    name: str
    title: str
    config: str
    overrides: tuple[str, ...]
    steps: int


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            "ppo_cartpole",
            "PPO CartPole-v1, 4 envs, rollout 128, batch 64, 10 epochs",
            "configs/ppo.yaml",
            ("env.num_envs=4", "algo.rollout_steps=128", "algo.batch_size=64", "algo.epochs=10"),
            65_536,
        ),
        Workload(
            "sac_halfcheetah",
            "SAC HalfCheetah-v5, 4 envs, one gradient step per policy step, batch 256",
            "configs/sac_halfcheetah.yaml",
            ("env.num_envs=4", "algo.replay_ratio=1", "algo.batch_size=256", "algo.learning_starts=100"),
            4096,
        ),
    )
}


@dataclass(frozen=True)
class Timing:
    """One program's run: seconds, and the work that it did by its own counters."""

    loop: float
    process: float
    updates: int
    policy_steps: int


@dataclass
class Timings:
    """All runs of one program at one workload with one number of threads."""

    program: str
    threads: int
    runs: list[Timing] = field(default_factory=list)

    @property
    def loop(self) -> list[float]:
        """Seconds of the loop, run by run."""
        return [run.loop for run in self.runs]

    @property
    def process(self) -> list[float]:
        """Seconds of the whole process, run by run."""
        return [run.process for run in self.runs]

    def as_json(self) -> Json:
        """Every run, and their median and spread."""
        return {
            "program": self.program,
            "threads": self.threads,
            "loop": [round(seconds, 3) for seconds in self.loop],
            "loop_median": round(statistics.median(self.loop), 3),
            "process": [round(seconds, 3) for seconds in self.process],
            "process_median": round(statistics.median(self.process), 3),
            "updates": self.runs[0].updates,
            "policy_steps": self.runs[0].policy_steps,
        }


class BenchmarkError(RuntimeError):
    """A program failed, or programs didn't do the same work."""


# --------------------------------------------------------------------------------------------- running


def timed(command: Sequence[str], variables: dict[str, str]) -> tuple[float, str]:
    """Seconds that a command took, and what it printed on stdout.

    Raises:
        BenchmarkError: its exit code isn't 0.
    """
    began = time.perf_counter()
    done = subprocess.run(command, cwd=record.ROOT, env=variables, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        printed = (done.stdout + done.stderr)[-4000:]
        raise BenchmarkError(f"{' '.join(command)}: exit code {done.returncode}\n{printed}")
    return seconds, done.stdout


def run_sheeprl(workload: Workload, mode: str, threads: int, steps: int) -> Timing:
    """Time SheepRL in one of its two placements."""
    with tempfile.TemporaryDirectory(prefix="sheeprl_speed_") as folder:
        run_dir = Path(folder) / "run"
        settings = (f"run.total_steps={steps}", f"run.mode={mode}", f"run.dir={run_dir}", f"trainer.threads={threads}")
        command = [sys.executable, "-m", "sheeprl", "run", workload.config, *workload.overrides, *BARE, *settings]
        process, _ = timed(command, record.environment())
        end = next(line for line in reversed(record.read_metrics(run_dir)) if line.get("event") == "end")
    return Timing(end["wall_time"], process, end["gradient_steps"], end["policy_steps"])


def run_peer(workload: Workload, python: str, threads: int, steps: int) -> tuple[Timing, dict[str, str]]:
    """Time Stable-Baselines3 in the environment of `python`; also its versions."""
    script = str(record.ROOT / "benchmarks" / "peers" / "sb3.py")
    command = [python, script, workload.name, "--steps", str(steps), "--threads", str(threads)]
    process, printed = timed(command, os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)})
    result = json.loads(printed.splitlines()[-1])
    return Timing(result["loop"], process, result["updates"], result["policy_steps"]), result["versions"]


def steps_of_peer(workload: Workload, done: Timing) -> int:
    """Steps with which Stable-Baselines3 takes as many gradient steps as SheepRL did.

    On-policy it is whole rollouts of 512 rows, 80 updates each. SheepRL doesn't count an episode's end as a policy
    step, so that to reach the same number of steps it may play one rollout more. Off-policy it is what SheepRL played.
    """
    return done.updates // 80 * 512 if workload.name == "ppo_cartpole" else done.policy_steps


class Comparison:
    """One workload, all programs, several rounds.

    Args:
        workload: what is done.
        steps: policy steps to reach.
        threads: numbers to try for SheepRL.
        peer_threads: numbers to try for Stable-Baselines3.
        peer_python: of its environment.
    """

    def __init__(
        self, workload: Workload, steps: int, threads: Sequence[int], peer_threads: Sequence[int], peer_python: str
    ) -> None:
        self.workload = workload
        self.steps = steps
        self.peer_python = peer_python
        self.peer_versions: dict[str, str] = {}
        self.timings = [Timings(program, number) for program in MODES for number in threads]
        self.timings += [Timings(PEER, number) for number in peer_threads]

    def round(self) -> None:
        """Run every program once."""
        for timings in self.timings:
            timings.runs.append(self.run(timings.program, timings.threads))
            last = timings.runs[-1]
            self.check(timings.program, last)
            print(
                f"  {timings.program:<18} {timings.threads} threads: loop {last.loop:7.2f} s, process "
                f"{last.process:7.2f} s, {last.updates:,} updates, {last.policy_steps:,} policy steps",
                flush=True,
            )

    def run(self, program: str, threads: int) -> Timing:
        """Run one program once."""
        if program != PEER:
            return run_sheeprl(self.workload, MODES[program], threads, self.steps)
        steps = steps_of_peer(self.workload, self.timings[0].runs[0])
        timing, self.peer_versions = run_peer(self.workload, self.peer_python, threads, steps)
        return timing

    def check(self, program: str, timing: Timing) -> None:
        """Whether it did what the first one did.

        Raises:
            BenchmarkError: the numbers of updates differ.
        """
        updates = self.timings[0].runs[0].updates
        if timing.updates != updates:
            raise BenchmarkError(f"{self.workload.name}: {program} took {timing.updates} gradient steps, not {updates}")

    def best(self, program: str) -> Timings:
        """A program's timings with the number of threads that suits its loop best."""
        own = [timings for timings in self.timings if timings.program == program]
        return min(own, key=lambda timings: statistics.median(timings.loop))

    def as_json(self) -> Json:
        """All timings, and each program's best beside the peer's."""
        peer = self.best(PEER).as_json()
        summary = []
        for program in (*MODES, PEER):
            own = self.best(program).as_json()
            ratios = {f"{what}_speed": round(peer[f"{what}_median"] / own[f"{what}_median"], 3) for what in KINDS}
            summary.append({key: own[key] for key in ("program", "threads", "loop_median", "process_median")} | ratios)
        return {
            "workload": self.workload.name,
            "title": self.workload.title,
            "config": self.workload.config,
            "overrides": [*self.workload.overrides, *BARE],
            "total_steps": self.steps,
            "best": summary,
            "timings": [timings.as_json() for timings in self.timings],
        }


KINDS = ("loop", "process")


# ------------------------------------------------------------------------------------------- reporting


def print_table(comparison: Comparison) -> None:
    """Each program's best: medians, spread, and speed beside the peer's."""
    result = comparison.as_json()
    print(f"\n{comparison.workload.title}, {comparison.timings[0].runs[0].updates:,} gradient steps")
    print(f"{'program':<18} {'threads':>7}  {'loop: median [min, max] s':>28}  {'process':>28}  speed: loop, process")
    for row in result["best"]:
        own = comparison.best(row["program"])
        cells = (f"{statistics.median(s):8.2f} [{min(s):.2f}, {max(s):.2f}]" for s in (own.loop, own.process))
        loop, process = cells
        ratios = f"{row['loop_speed']:.2f} ×, {row['process_speed']:.2f} × {PEER}"
        print(f"{row['program']:<18} {row['threads']:>7}  {loop:>28}  {process:>28}  {ratios}")


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks speed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="policy steps, to shorten the work")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="to try for SheepRL")
    parser.add_argument("--peer-threads", nargs="+", type=int, default=[1, 2], help=f"to try for {PEER}")
    parser.add_argument("--peer-python", default=sys.executable, help=f"Python of an environment with {PEER}")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the result")
    given = parser.parse_args(args)
    if given.steps and given.out.resolve() == record.RESULTS:
        parser.error("shortened work is a trial; give it an --out of its own")
    chosen = [WORKLOADS[name] for name in given.workloads]
    comparisons = [
        Comparison(workload, given.steps or workload.steps, given.threads, given.peer_threads, given.peer_python)
        for workload in chosen
    ]
    described = record.describe(*(workload.config for workload in chosen))
    load = os.getloadavg()[0]
    try:
        for number in range(given.rounds):
            for comparison in comparisons:
                print(f"round {number + 1} of {given.rounds}, {comparison.workload.title}", flush=True)
                comparison.round()
    except BenchmarkError as error:
        sys.exit(f"error: {error}")
    for comparison in comparisons:
        print_table(comparison)
    described |= {"peer_versions": comparisons[0].peer_versions, "load_before": round(load, 2), "rounds": given.rounds}
    path = given.out / "speed.json"
    record.write(path, described | {"workloads": [comparison.as_json() for comparison in comparisons]})
    print(f"\n{path}")


if __name__ == "__main__":
    main()
