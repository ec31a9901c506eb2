"""Train with several seeds, evaluate the final policies and compare their mean return with a required one.

`python -m benchmarks learning ppo_cartpole` runs a row of `benchmarks/rows.yaml`, without a row it lists them all.
A seed that has a result isn't run again, and an interrupted one continues from its checkpoint.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from benchmarks.harness import record, rows
from benchmarks.harness.record import Json
from benchmarks.harness.rows import Row, RowError

INTERRUPTED = 130  # exit code after a signal


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
        process_time: seconds of the whole process, start-up included; None for a resumed run.
        curve: pairs of policy steps and the mean return of the training episodes that ended since the last pair.
        commit: commit of the code; "" stands for that of the whole result.
        resumed: commits of the code that continued an interrupted run.
    """

    seed: int
    mean: float
    std: float
    policy_steps: int
    gradient_steps: int
    wall_time: float
    process_time: float | None
    curve: list[tuple[int, float]]
    commit: str = ""
    resumed: list[str] = field(default_factory=list)


class StepFailedError(RuntimeError):
    """Raised when a command fails; the message names it and ends with its output."""


class InterruptedRunError(KeyboardInterrupt):
    """Raised when a signal has ended a run, after its checkpoint."""


def sheeprl(*words: str) -> str:
    """Run a command of this checkout's `sheeprl` and return its stdout.

    The command has its own process group. A signal to this process is passed to it once, so it saves a checkpoint.

    Raises:
        StepFailedError: its exit code isn't 0.
        InterruptedRunError: a signal ended it.
    """
    command = [sys.executable, "-m", "sheeprl", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        command, cwd=record.ROOT, env=record.environment(), text=True, start_new_session=True, **pipes
    ) as process:
        try:
            out, errors = process.communicate()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.communicate()
            raise InterruptedRunError from None
    if process.returncode:
        raise StepFailedError(f"{' '.join(command)}: exit code {process.returncode}\n{(out + errors)[-4000:]}")
    return out


@dataclass(frozen=True)
class Job:
    """Seeds of one row in one placement, and where they run.

    Args:
        row: row of the table.
        mode: coupled or decoupled.
        overrides: overrides of a trial, on top of the row's.
        out: folder of the result.
        work: folder of the runs in progress.
        threads: CPU threads of the learner; None for the default.
    """

    row: Row
    mode: str
    overrides: tuple[str, ...]
    out: Path
    work: Path
    threads: int | None = None

    @property
    def path(self) -> Path:
        """Return the file of the result."""
        return self.out / f"{self.row.name}_{self.mode}.json"

    @property
    def settings(self) -> Json:
        """Return the settings that decide whether an earlier result still counts."""
        settings = {"mode": self.mode, "episodes": self.row.episodes, **self.row.tree(self.overrides)}
        return settings if self.first is None else settings | {"begins_with": self.first.settings}

    @property
    def first(self) -> Job | None:
        """Return the job whose runs give the first weights, if there is one."""
        return None if self.row.init_from is None else replace(self, row=self.row.init_from, overrides=())

    def folder(self, seed: int) -> Path:
        """Return the folder of a seed's run, which depends on the settings too."""
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:8]
        return self.work / f"{self.row.name}_{self.mode}_{seed}_{digest}"


def train(job: Job, seed: int) -> tuple[Path, list[str], float]:
    """Train one seed, or continue its interrupted run if it had the same settings.

    The run that gives the first weights and rows is trained before. It stays in the folder of runs in progress, for
    its own row.

    Returns:
        Folder of the run, commits of the code that ran in it, and seconds of the last process.
    """
    folder, row = job.folder(seed), job.row
    settings = []
    if job.first is not None:
        first, *_ = train(job.first, seed)
        settings = [f"algo.init_from={first}", f"buffer.init_from={first}"]
    commits = note_commit(folder)
    run_dir = folder / "run"
    settings += [*row.settings, *job.overrides, f"run.seed={seed}", f"run.mode={job.mode}", f"run.dir={run_dir}"]
    settings += [] if job.threads is None else [f"trainer.threads={job.threads}"]
    began = time.monotonic()
    sheeprl("run", str(row.path), *settings, "run.resume=auto", "eval.episodes=0", "log.level=warning")
    return run_dir, commits, time.monotonic() - began


def run_seed(job: Job, seed: int) -> SeedResult:
    """Train and evaluate one seed."""
    run_dir, commits, process_time = train(job, seed)
    row = job.row
    lines = record.read_metrics(run_dir)
    end = next(line for line in reversed(lines) if line.get("event") == "end")
    evaluation = json.loads(sheeprl("eval", str(run_dir), "--episodes", str(row.episodes), "--json"))
    if evaluation["policy_steps"] != end["policy_steps"] or len(evaluation["returns"]) != row.episodes:
        raise StepFailedError(f"{run_dir}: the evaluation isn't of the final policy or has missing episodes")
    return SeedResult(
        seed,
        round(evaluation["mean_return"], 3),
        round(evaluation["std_return"], 3),
        end["policy_steps"],
        end["gradient_steps"],
        round(end["wall_time"], 1),
        None if len(commits) > 1 else round(process_time, 1),
        learning_curve(lines),
        commits[0],
        commits[1:],
    )


def note_commit(folder: Path) -> list[str]:
    """Note in a run's folder that this commit runs there; return all commits that did, the first one first."""
    path = folder / "commits.json"
    commits: list[str] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    commits.append(record.commit())
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(commits), encoding="utf-8")
    return commits


def learning_curve(lines: Sequence[Json], key: str = "Rewards/rew_avg") -> list[tuple[int, float]]:
    """Return policy steps and value of a metric on the lines that have it."""
    return [(line["step"], round(line[key], 3)) for line in lines if line.get(key) is not None]


def run_job(job: Job, seeds: Sequence[int], again: bool = False) -> Json | None:
    """Run the seeds that have no result, add each to the result when it ends, and return the result.

    Args:
        job: row, placement and folders.
        seeds: seeds to run.
        again: run seeds with a result again.

    Raises:
        RowError: the row's configuration doesn't exist.
        StepFailedError: a run or an evaluation failed; earlier seeds are in the result.
    """
    job.row.tree()  # raises before anything is written
    for seed in seeds:
        if not again and seed in {result.seed for result in seeds_of(job)}:
            print(f"{seed:>6}  has a result in {job.path}; --again runs it again", flush=True)
            continue
        described = record.describe(str(job.row.path))  # before the run, so it names the code that is used
        result = run_seed(job, seed)
        add(job, result, described)
        shutil.rmtree(job.folder(seed))  # the folder of a failed run remains, and the next command continues it
        print_seed(result)
    return read(job)


def add(job: Job, result: SeedResult, described: Json) -> None:
    """Add a seed to the result of a row; several commands may do so at a time."""
    with locked(job.work / f"{job.row.name}_{job.mode}.lock"):
        others = [other for other in seeds_of(job) if other.seed != result.seed]
        if others:
            before = (read(job) or {}).get("modified", [])
            described = described | {"modified": sorted({*before, *described["modified"]})}
        record.write(job.path, summary(job, [*others, result], described))


def summary(job: Job, results: Sequence[SeedResult], described: Json) -> Json:
    """Return the contents of a result's file."""
    results = sorted(results, key=lambda result: result.seed)
    mean = statistics.fmean(result.mean for result in results)
    return {
        "gate": job.row.gate(),
        "mode": job.mode,
        "seeds": [result.seed for result in results],
        "mean": round(mean, 3),
        "std_over_seeds": round(statistics.stdev(result.mean for result in results), 3) if len(results) > 1 else None,
        "met": None if job.overrides else job.row.verdict(mean, len(results)),
        **described,
        "settings": job.settings,
        "per_seed": [asdict(result) for result in results],
    }


def read(job: Job) -> Json | None:
    """Return the result of a row, None without one."""
    result: Json | None = json.loads(job.path.read_text(encoding="utf-8")) if job.path.exists() else None
    return result


def seeds_of(job: Job) -> list[SeedResult]:
    """Return the seeds that a row's result has for its present settings, each with the commit of its code."""
    result = read(job)
    if result is None or not is_current(result, job):
        return []
    return [
        SeedResult(
            **(seed | {"commit": seed.get("commit") or result["commit"], "curve": list(map(tuple, seed["curve"]))})
        )
        for seed in result["per_seed"]
    ]


def is_current(result: Json, job: Job) -> bool:
    """Return True if a result was measured with the row's present settings; early results store the gate only."""
    if "settings" in result:
        return bool(result["settings"] == job.settings)
    gate = job.row.gate()
    return not job.overrides and all(result["gate"][key] == gate[key] for key in ("config", "episodes", "overrides"))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock between commands within the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def print_seed(result: SeedResult) -> None:
    """Print the result of a seed."""
    print(
        f"{result.seed:>6}  {result.mean:>10.2f} ± {result.std:<8.2f}  {result.policy_steps:>12,}  "
        f"{result.gradient_steps:>14,}  {result.wall_time:>8.0f} s",
        flush=True,
    )


def listing(table: dict[str, Row], out: Path) -> str:
    """Return the list of all rows with their results."""
    lines = [f"{'row':<26}{'task':<38}{'steps':>11}  {'required':<22}result"]
    for row in table.values():
        found = [
            json.loads(path.read_text()) for mode in rows.MODES if (path := out / f"{row.name}_{mode}.json").exists()
        ]
        shown = ", ".join(f"{result['mode']} {result['mean']:.2f}" for result in found)
        missing = "needs a GPU" if row.gpu else "not run"
        state = shown or (missing if row.path.is_file() else f"configs/{row.config}.yaml doesn't exist")
        lines.append(f"{row.name:<26}{row.task:<38}{row.steps:>11,}  {row.required():<22}{state}")
    return "\n".join(lines)


def default_work() -> Path:
    """Return the folder of runs in progress, below the user's cache folder or SHEEPRL_CACHE."""
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sheeprl"
    return Path(os.environ.get("SHEEPRL_CACHE") or users) / "learning"


def parse(args: Sequence[str] | None, table: dict[str, Row]) -> tuple[argparse.Namespace, list[Row], tuple[str, ...]]:
    """Return the arguments, the rows and the overrides of a trial."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks learning", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="ROW | key=value", help="rows; settings on top make it a trial")
    parser.add_argument("--all", action="store_true", help="all rows that have a configuration and need no GPU")
    parser.add_argument("--mode", choices=rows.MODES, default="coupled")
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="run the seeds 0 to N - 1; default: as many as the row's"
    )
    parser.add_argument("--seed", nargs="+", type=int, metavar="SEED", help="run these seeds only")
    parser.add_argument("--again", action="store_true", help="run seeds again that have a result")
    parser.add_argument("--threads", type=int, help="CPU threads of the learner: speed, not the algorithm")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the results")
    parser.add_argument("--work", type=Path, default=default_work(), help="folder of the runs in progress")
    given = parser.parse_intermixed_args(args)
    overrides = tuple(word for word in given.words if "=" in word)
    names = [word for word in given.words if "=" not in word]
    if unknown := [name for name in names if name not in table]:
        parser.error(f"{', '.join(unknown)}: no such row; python -m benchmarks learning lists all")
    if overrides and given.out.resolve() == record.RESULTS:
        parser.error("changed settings make a trial; use another --out")
    if given.seed and len(set(given.seed)) < len(given.seed):
        parser.error("--seed contains a seed twice")
    if given.all:
        names += [row.name for row in table.values() if row.path.is_file() and not row.gpu and row.name not in names]
    return given, [table[name] for name in names], overrides


def main(args: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    table = rows.load()
    given, chosen, overrides = parse(args, table)
    if not chosen:
        print(listing(table, given.out))
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    failed = False
    for row in chosen:
        seeds = given.seed or list(range(given.seeds or row.seeds))
        job = Job(row, given.mode, overrides, given.out, given.work, given.threads)
        print(f"{row.name}, {given.mode}: configs/{row.config}.yaml, {row.episodes} episodes, {row.required()}")
        print("  seed      return             policy steps  gradient steps        loop", flush=True)
        try:
            result = run_job(job, seeds, given.again)
        except (RowError, StepFailedError) as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            failed = True
            continue
        except KeyboardInterrupt:
            print(f"interrupted; the same command continues {row.name}", file=sys.stderr)
            sys.exit(INTERRUPTED)
        if result:
            verdict = {True: "met", False: "NOT met", None: "not judged"}[result["met"]]
            print(
                f"mean over {len(result['seeds'])} seeds {result['mean']:.2f}, {row.required()}: {verdict}; {job.path}"
            )
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
