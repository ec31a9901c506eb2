"""Compare `sheeprl tune` with as many runs of the given settings at equal policy steps.

The given settings are an algorithm's defaults, or a shipped configuration that is tuned by hand. The search and the
given settings have the same number of runs and policy steps per run. The best settings are then trained with new seeds.
Evaluations use start seeds that no selection has seen.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.harness import record
from benchmarks.harness.bounds import Bound, rounded
from benchmarks.harness.record import Json
from benchmarks.learning import StepFailedError, sheeprl
from sheeprl.evaluate import evaluate_checkpoint
from sheeprl.results.statistics import bootstrap, probability_of_improvement

FIRST_SEED = 100  # of the runs that are compared; the search uses 0
EVALUATION_SEED = 10_000
EPISODES = 20
TRIALS = 12


@dataclass(frozen=True)
class Task:
    """Task of the search.

    Args:
        title: environment, algorithm and kind of the given settings.
        steps: policy steps of a run.
        given: stem of a file in `configs`, or an algorithm, whose defaults are given, and an environment.
    """

    title: str
    steps: int
    given: str | tuple[str, str]

    @property
    def name(self) -> str:
        """Return the name of the case in the result."""
        return self.given if isinstance(self.given, str) else "_".join(self.given)

    def file(self, folder: Path) -> Path:
        """Return the configuration file; that of an algorithm's defaults is written to a folder."""
        if isinstance(self.given, str):
            return record.ROOT / "configs" / f"{self.given}.yaml"
        path = folder / "defaults.yaml"
        path.write_text("algo: {{name: {}}}\nenv: {{id: {}}}\n".format(*self.given), encoding="utf-8")
        return path


TASKS = {
    "cartpole": Task("CartPole-v1, DQN, defaults", 10_000, ("dqn", "CartPole-v1")),
    "pendulum": Task("Pendulum-v1, PPO, defaults", 40_000, ("ppo", "Pendulum-v1")),
    "acrobot": Task("Acrobot-v1, A2C, defaults", 40_000, ("a2c", "Acrobot-v1")),
    "cartpole_tuned": Task("CartPole-v1, PPO, tuned by hand", 10_000, "ppo"),
}
EAGER = "trainer.compile=false"  # each shape of a search would be compiled for a few seconds of training


@dataclass
class Comparison:
    """Runs of one task.

    Args:
        task: the task.
        folder: folder of all runs.
        trials: number of trials, and of runs of either settings.
        steps: policy steps of a run.
    """

    task: Task
    folder: Path
    trials: int
    steps: int

    def measure(self) -> Json:
        """Search, train both settings with new seeds, evaluate all final policies, and return the case."""
        began = time.monotonic()
        budget, search = f"run.total_steps={self.steps}", self.folder / "search"
        evaluations = f"eval.every={self.steps // 3}"  # where bad trials end early
        config = self.task.file(self.folder)
        words = ["--trials", str(self.trials), "--out", str(search), budget, evaluations, EAGER]
        sheeprl("tune", str(config), *words)
        seconds = time.monotonic() - began
        found = [json.loads(line) for line in (search / "trials.jsonl").read_text().splitlines()]
        print(f"  searched {len(found)} trials in {seconds:.0f} s", flush=True)
        best = self.returns("best", search / "best.yaml")
        given = self.returns("given", config)
        return {
            "case": self.task.name,
            "title": f"{self.task.title}, {self.trials} runs of {self.steps:,} policy steps",
            "policy_steps_of_the_search": sum(trial["policy_steps"] for trial in found),
            "policy_steps_of_the_given_settings": self.trials * self.steps,
            "search_seconds": round(seconds, 1),
            "trials": [{key: trial[key] for key in ("score", "policy_steps", "status")} for trial in found],
            "settings": found[0]["settings"],
            "returns": {"best": best, "given": given},
            "bounds": [bound.as_json() for bound in bounds(best, given)],
        }

    def returns(self, name: str, config: Path) -> list[float]:
        """Train settings with new seeds, and return the mean return of each final policy."""
        folder, last = self.folder / name, FIRST_SEED + self.trials - 1
        fixed = [f"run.total_steps={self.steps}", "eval.every=null", "eval.episodes=0", EAGER]
        sheeprl("sweep", str(config), f"run.seed={FIRST_SEED}..{last}", "--out", str(folder), *fixed)
        runs = [folder / f"run.seed={seed}" for seed in range(FIRST_SEED, last + 1)]
        means = [mean_return(run) for run in runs]
        print(f"  {name} settings: {statistics.fmean(means):.1f}, {min(means):.1f} to {max(means):.1f}", flush=True)
        return [rounded(mean) for mean in means]


def mean_return(run: Path) -> float:
    """Return the mean return of a run's final policy on start seeds that no selection has seen."""
    return evaluate_checkpoint(str(run), EPISODES, EVALUATION_SEED).mean_return


def bounds(best: Sequence[float], given: Sequence[float]) -> list[Bound]:
    """Return the figures of a task; the spreads of difference and probability are 95 % bootstrap intervals.

    Args:
        best: returns of the best settings that the search found, one per seed.
        given: returns of the given settings.
    """
    scores = [np.array(best), np.array(given)]
    difference = bootstrap(scores, lambda drawn: drawn[0].mean(axis=-1) - drawn[1].mean(axis=-1))
    better = probability_of_improvement(scores[:1], scores[1:])
    return [
        Bound("mean return of the settings found", statistics.fmean(best), spread=(min(best), max(best))),
        Bound("mean return of the given settings", statistics.fmean(given), spread=(min(given), max(given))),
        Bound("their difference", difference.value, at_least=0.0, spread=(difference.low, difference.high)),
        Bound(
            "probability that the settings found are better",
            better.value,
            at_least=0.5,
            spread=(better.low, better.high) if better.has_interval else None,
        ),
    ]


def merged(path: Path, case: Json) -> list[Json]:
    """Return the cases of an earlier result with one of them replaced or added, in the order of the tasks."""
    earlier = json.loads(path.read_text(encoding="utf-8"))["cases"] if path.is_file() else []
    cases = {one["case"]: one for one in [*earlier, case]}
    return [cases[task.name] for task in TASKS.values() if task.name in cases]


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks search", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"default: {' '.join(TASKS)}")
    parser.add_argument("--trials", type=int, default=TRIALS, help="trials, and runs of either settings")
    parser.add_argument("--steps", type=int, help="policy steps of a run, to shorten the work")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the result")
    given = parser.parse_args(args)
    if unknown := [name for name in given.tasks if name not in TASKS]:
        parser.error(f"{', '.join(unknown)}: no such task; there are {', '.join(TASKS)}")
    if (given.steps or given.trials != TRIALS) and given.out.resolve() == record.RESULTS:
        parser.error("shortened work is a trial; use another --out")
    return given


def main(args: Sequence[str] | None = None) -> None:
    """Run the benchmark; add each task to the result when it ends."""
    given = parse(args)
    path: Path = given.out / "search.json"
    for name in given.tasks or TASKS:
        task = TASKS[name]
        configs = [str(task.file(record.ROOT))] if isinstance(task.given, str) else []
        described = record.describe(*configs)  # before the runs, so it names the code that is used
        print(f"{task.title}: {given.trials} trials", flush=True)
        with TemporaryDirectory() as folder:
            try:
                case = Comparison(task, Path(folder), given.trials, given.steps or task.steps).measure()
            except StepFailedError as error:
                sys.exit(f"error: {error}")
        own = {key: described[key] for key in ("command", "commit", "modified")}
        record.write(path, described | {"cases": merged(path, case | own)})
        for bound in case["bounds"]:
            print(f"  {bound['name']}: {bound['value']}", flush=True)
    print(path)


if __name__ == "__main__":
    main()
