"""Kill random processes of real runs and check that no row is lost, duplicated or miscounted.

`python -m benchmarks chaos --minutes 3 --seed 1`

Each part runs twice: undisturbed, then with a process of a random role killed (SIGKILL) every 5 to 15 seconds. If the
driver is killed, the benchmark checks that all processes of the run end, and resumes the run. A kill counts as
recovered when the run has logged a round in which the lost process is replaced.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.cases.chaos_checks import Verdict, examine, mean_return
from benchmarks.harness import record
from benchmarks.harness.processes import Member
from benchmarks.harness.record import Json
from benchmarks.harness.subject import Subject, ran

ROLES = ("player", "env worker", "shard", "trainer")
COUNTED_AS = {  # the metric that counts a role's losses
    "player": "Players/restarts",
    "env worker": "Players/restarts",
    "shard": "Buffer/restarts",
    "trainer": "Trainer/restarts",
}
LEAST, MOST = 5.0, 15.0  # seconds between kills
# Kills end after this multiple of the undisturbed run's time. On a busy machine a process may be killed before the
# previous one is replaced, and the run would never end.
LONGEST = 4.0
ORPHANS_MAY_LIVE = 10.0  # seconds after their driver
LOOK_FOR_VICTIM = 2.0  # seconds
LEAST_PART_OF_RETURN = 0.7  # of what an undisturbed run learns beyond random play
LEAST_THROUGHPUT = 0.8  # of the undisturbed run's


@dataclass(frozen=True)
class Part:
    """Run to disturb.

    Args:
        name: name of the part.
        title: title in the table.
        words: arguments of `sheeprl run`.
        rate: policy steps a minute on a machine with two cores, roughly.
        roles: roles whose processes are killed.
        random_return: mean return of random actions; None if returns aren't compared.
        throughput: True if policy steps per second are compared.
    """

    name: str
    title: str
    words: tuple[str, ...]
    rate: int
    roles: tuple[str, ...]
    random_return: float | None = None
    throughput: bool = False


COMMON = (
    *("trainer.threads=1", "trainer.accelerator=cpu", "eval.episodes=0", "log.every=1"),
    *("ray.max_failures=100000", "algo.hidden_sizes=[64,64]"),
)
SAC = (
    "configs/sac.yaml",
    *COMMON,
    *(
        "env.id=benchmarks.cases.stamped:StampedPendulum-v0",
        "env.vectorization=async",
        "env.num_envs=2",
        "players.num=3",
    ),
    *("algo.batch_size=64", "algo.replay_ratio=0.5", "algo.gamma=0.95", "players.fragment_rows=16", "buffer.shards=2"),
    *("buffer.size=400000", "checkpoint.every=1000"),
)
MAPPED = (*SAC, "buffer.memmap=true")
PPO = (
    "configs/ppo.yaml",
    *COMMON,
    *(
        "env.id=benchmarks.cases.stamped:StampedCartPole-v0",
        "env.vectorization=async",
        "env.num_envs=2",
        "players.num=2",
    ),
    *("algo.rollout_steps=128", "checkpoint.every=4000"),
)
APEX = (
    "configs/apex_cartpole.yaml",
    *COMMON,
    *(
        "env.id=benchmarks.cases.stamped:StampedCartPole-v0",
        "env.vectorization=async",
        "env.num_envs=2",
        "players.num=3",
    ),
    *("algo.replay_ratio=0.5", "players.fragment_rows=16", "buffer.shards=2", "buffer.memmap=true"),
    *("buffer.size=400000", "checkpoint.every=1000"),
)
IMPALA = (
    "configs/impala.yaml",
    *COMMON,
    *(
        "env.id=benchmarks.cases.stamped:StampedCartPole-v0",
        "env.vectorization=async",
        "env.num_envs=4",
        "players.num=3",
    ),
    *("players.quorum=0.6", "run.max_staleness=2", "algo.rollout_steps=5", "checkpoint.every=4000"),
)
SLEEPING = (
    "configs/sac.yaml",
    *COMMON,
    *(
        "env.id=benchmarks.cases.stamped:StampedPendulum-v0",
        "env.kwargs={sleep: 0.005}",
        "env.num_envs=1",
        "players.num=8",
    ),
    *("algo.batch_size=64", "algo.replay_ratio=0.05", "players.fragment_rows=32", "buffer.size=400000"),
)
RANDOM_PENDULUM, RANDOM_CARTPOLE = -1230.0, 22.0
PARTS = {
    part.name: part
    for part in (
        Part("sac", "SAC, mapped replay in 2 shards, 3 players", MAPPED, 50_000, ROLES, RANDOM_PENDULUM),
        Part(
            "sac_heap",
            "SAC, replay in memory in 2 shards, 2 ranks",
            (*SAC, "trainer.devices=2"),
            8_000,
            ROLES,
            RANDOM_PENDULUM,
        ),
        Part("ppo", "PPO, 2 players, 2 ranks", (*PPO, "trainer.devices=2"), 40_000, ROLES, RANDOM_CARTPOLE),
        Part("apex", "Ape-X, mapped replay in 2 shards, 3 players", APEX, 30_000, ROLES, RANDOM_CARTPOLE),
        Part("impala", "IMPALA, a quorum of 0.6 of 3 players", IMPALA, 60_000, ROLES, RANDOM_CARTPOLE),
        Part("sac_driver", "SAC as the first, driver killed too", MAPPED, 50_000, (*ROLES, "driver"), RANDOM_PENDULUM),
        Part("ppo_driver", "PPO, driver killed too", PPO, 150_000, (*ROLES, "driver"), RANDOM_CARTPOLE),
        Part(
            "throughput", "SAC, 8 players on envs that take 5 ms a step", SLEEPING, 48_000, ("player",), throughput=True
        ),
    )
}

Schedule = Iterator[tuple[float, str | None]]
"""Seconds to wait and the role to kill then; None draws the role."""


def at_random(rng: random.Random, least: float, most: float, seconds: float) -> Schedule:
    """Yield kills at random intervals for a number of seconds; the role is None, so drawn at each kill."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield rng.uniform(least, most), None


def one_of_each(rng: random.Random, wait: float, roles: Iterable[str]) -> Schedule:
    """Yield one kill of every role, in random order."""
    order = list(roles)
    rng.shuffle(order)
    for role in order:
        yield wait, role


@dataclass
class Kill:
    """One killed process.

    Args:
        role: role of the process.
        at: time of the kill, on the monotonic clock.
        counted: value of the metric that counts such losses before the kill.
        recovery: seconds until a round was logged with the process replaced; None if the run ended before.
    """

    role: str
    at: float
    counted: float
    recovery: float | None = None


@dataclass
class Disturbed:
    """Outcome of a disturbed run.

    Args:
        subject: the run.
        kills: all kills, in order.
        orphans: seconds that other processes outlived each killed driver, and the last driver, which ended.
        resumed: number of drivers after the first.
        left_alone: True if the kills ended before the run.
    """

    subject: Subject
    kills: list[Kill] = field(default_factory=list)
    orphans: list[float] = field(default_factory=list)
    resumed: int = 0
    left_alone: bool = False


class Chaos:
    """Kills processes of one run until the run ends.

    Args:
        subject: the run, just started.
        roles: roles whose processes are killed.
        schedule: times and roles of the kills.
        rng: draws the processes to kill.
    """

    def __init__(self, subject: Subject, roles: Sequence[str], schedule: Schedule, rng: random.Random) -> None:
        """Start without kills."""
        self.subject, self.roles, self.schedule, self.rng = subject, roles, schedule, rng
        self.result = Disturbed(subject)
        self.unrecovered: list[Kill] = []

    def run(self) -> Disturbed:
        """Disturb the run until it ends.

        Raises:
            RuntimeError: the run failed.
        """
        subject, result = self.subject, self.result
        for wait, role in self.schedule:
            if (code := self._pause(wait)) is not None:
                break
            self._kill(role)
        else:
            result.left_alone = True
            while (code := self._wait(60)) is None:
                pass
        if code:
            raise RuntimeError(f"{subject.run_dir.name}: exit code {code}\n{subject.last_words()}")
        result.orphans.append(subject.time_until_gone(ORPHANS_MAY_LIVE))
        return result

    def _pause(self, seconds: float) -> int | None:
        """Wait until the run logs metrics, then for `seconds`; return the driver's exit code if it ends before."""
        while not self.subject.under_way:
            if (code := self._wait(1.0)) is not None:
                return code
        return self._wait(seconds)

    def _wait(self, seconds: float) -> int | None:
        """Follow the run for `seconds` and note recoveries; return the driver's exit code if it ends before."""
        code = self.subject.wait(seconds)
        self._note_recoveries()
        return code

    def _victims(self, role: str | None) -> list[Member]:
        """Return the processes that may be killed now. Wait a moment for a busy process of the role."""
        until = time.monotonic() + LOOK_FOR_VICTIM
        while True:
            found = [each for each in self.subject.members() if each.role in self.roles]
            if not (self.subject.run_dir / "checkpoints").is_dir():  # a run without a checkpoint can't be resumed
                found = [member for member in found if member.role != "driver"]
            # An idle player may be a standby process, and killing it would not disturb the run.
            busy = [member for member in found if not member.is_idle_player]
            if role is None or any(member.role == role for member in busy):
                return busy
            if time.monotonic() > until:
                return found
            time.sleep(0.01)

    def _kill(self, role: str | None) -> None:
        """Kill a random process of a role, of a random role if it is None or has no process."""
        found = self._victims(role)
        there = sorted({member.role for member in found})
        if not there:
            return
        role = role if role in there else self.rng.choice(there)
        victim: Member = self.rng.choice([member for member in found if member.role == role])
        now = time.monotonic()
        if not victim.process.kill():
            return
        kill = Kill(role, now, self.subject.newest(COUNTED_AS.get(role, ""), before=now))
        self.result.kills.append(kill)
        self.unrecovered.append(kill)
        if role == "driver":
            self._bring_back()

    def _bring_back(self) -> None:
        """Wait until all processes of the run are gone, then resume it."""
        subject = self.subject
        while subject.look() is None:
            time.sleep(0.01)
        self.result.orphans.append(subject.time_until_gone(3 * ORPHANS_MAY_LIVE))
        self._note_recoveries()
        self.unrecovered = self.unrecovered[-1:]  # the resumed run replaces all processes lost before
        subject.resume()
        self.result.resumed += 1

    def _note_recoveries(self) -> None:
        """Set the recovery time of all kills whose loss a logged round has made good."""
        for kill in list(self.unrecovered):
            since = [seen for seen in self.subject.lines if seen.at > kill.at and "Time/sps" in seen.values]
            if kill.role != "driver":
                counter = COUNTED_AS[kill.role]
                since = [seen for seen in since if seen.values[counter] > kill.counted]
            if kill.role in ("player", "env worker"):  # the restart is counted before the player is back
                first = next((seen for seen in since if seen.values["Time/recovery"] > 0), None)
            else:
                first = since[0] if since else None
            if first is not None:
                kill.recovery = first.at - kill.at
                self.unrecovered.remove(kill)


# -------------------------------------------------------------------------------------------- verdict


def judge(part: Part, calm: Subject | None, disturbed: Disturbed) -> Verdict:
    """Check a disturbed run and compare it with the undisturbed one."""
    subject = disturbed.subject
    verdict = examine(subject.run_dir)
    lines = record.read_metrics(subject.run_dir)
    verdict.expect("no process outlives a driver", max(disturbed.orphans) <= ORPHANS_MAY_LIVE, True)
    counted = sum(subject.newest(counter) for counter in set(COUNTED_AS.values()))
    verdict.figures |= {
        "kills": dict(Counter(kill.role for kill in disturbed.kills)),
        "losses counted": counted,
        "recovery": _recoveries(disturbed.kills),
        "orphans_seconds": [round(seconds, 2) for seconds in disturbed.orphans],
        "resumed": disturbed.resumed,
        "left_alone_in_the_end": disturbed.left_alone,
        "return": mean_return(lines),
        "steps_per_second": _rate(lines),
    }
    if calm is not None:
        _compare(part, record.read_metrics(calm.run_dir), verdict)
    return verdict


def _compare(part: Part, calm: list[Json], verdict: Verdict) -> None:
    """Compare return and throughput with those of the undisturbed run."""
    figures = verdict.figures
    figures |= {"undisturbed_return": mean_return(calm), "undisturbed_steps_per_second": _rate(calm)}
    figures["throughput"] = round(figures["steps_per_second"] / figures["undisturbed_steps_per_second"], 3)
    if part.throughput and figures["throughput"] < LEAST_THROUGHPUT:
        verdict.wrong.append(f"throughput: {figures['throughput']}, should be at least {LEAST_THROUGHPUT}")
    if part.random_return is not None:
        gain = figures["undisturbed_return"] - part.random_return
        least = part.random_return + LEAST_PART_OF_RETURN * gain
        if figures["return"] < least:
            verdict.wrong.append(f"return: {figures['return']:.1f}, should be at least {least:.1f}")


def _rate(lines: list[Json]) -> float:
    """Return policy steps per second between the first and the last line of metrics."""
    steps = [line for line in lines if "step" in line and "time" in line]
    return float((steps[-1]["step"] - steps[0]["step"]) / (steps[-1]["time"] - steps[0]["time"]))


def _recoveries(kills: Sequence[Kill]) -> Json:
    """Seconds by role: median, worst, and how many were not made good before the end."""
    table: Json = {}
    for role in sorted({kill.role for kill in kills}):
        own = [kill.recovery for kill in kills if kill.role == role]
        seconds = [each for each in own if each is not None]
        table[role] = {"kills": len(own), "open_at_the_end": len(own) - len(seconds)}
        if seconds:
            table[role] |= {"median": round(statistics.median(seconds), 2), "worst": round(max(seconds), 2)}
    return table


# -------------------------------------------------------------------------------------------- reporting


def print_part(part: Part, verdict: Verdict) -> None:
    """Recovery by role, and what is wrong."""
    figures = verdict.figures
    print(f"\n{part.title}: {figures['policy steps']:,} policy steps, {figures['gradient steps']:,} gradient steps")
    for role, row in figures["recovery"].items():
        seconds = f"median {row['median']:5.1f} s, worst {row['worst']:5.1f} s" if "median" in row else "-"
        late = f", {row['open_at_the_end']} not before the end" if row["open_at_the_end"] else ""
        print(f"  {role:<11} {row['kills']:>3} killed, back after {seconds}{late}")
    if part.throughput or part.random_return is not None:
        print(
            f"  return {_number(figures['return'])} (undisturbed {_number(figures.get('undisturbed_return'))}), "
            f"{figures['steps_per_second']:.0f} steps/s ({100 * figures.get('throughput', float('nan')):.0f} % of that)"
        )
    print(f"  the last process outlived its driver by {max(figures['orphans_seconds']):.1f} s at most")
    if figures["left_alone_in_the_end"]:
        print("  the kills were over before the run was")
    for wrong in verdict.wrong or ["nothing"]:
        print(f"  wrong: {wrong}")


def _number(value: float | None) -> str:
    """Format a number, a missing one as a dash."""
    return "-" if value is None else f"{value:.1f}"


def run_part(part: Part, minutes: float, seed: int, folder: Path) -> Verdict:
    """Run a part undisturbed and disturbed.

    Raises:
        RuntimeError: a run failed.
    """
    rng = random.Random(f"{seed} {part.name}")
    words = (*part.words, f"run.total_steps={max(1, round(minutes * part.rate))}", f"run.seed={seed}")
    calm = ran(words, folder / f"{part.name}_calm")
    longest = LONGEST * record.read_metrics(calm.run_dir)[-1]["wall_time"]
    schedule = at_random(rng, *((10.0, 10.0) if part.throughput else (LEAST, MOST)), longest)
    return disturb(part, words, schedule, rng, folder / part.name, calm)


def disturb(
    part: Part, words: Sequence[str], schedule: Schedule, rng: random.Random, run_dir: Path, calm: Subject | None = None
) -> Verdict:
    """Run a part with kills and judge it.

    Raises:
        RuntimeError: the run failed.
    """
    subject = Subject(run_dir, words)
    try:
        return judge(part, calm, Chaos(subject, part.roles, schedule, rng).run())
    finally:
        subject.end()


def run_short(seed: int, folder: Path) -> Verdict:
    """Run half a minute of SAC and kill one process of each role."""
    part, rng = PARTS["sac"], random.Random(seed)
    words = (*part.words, "run.total_steps=8000", f"run.seed={seed}")
    return disturb(part, words, one_of_each(rng, 2.0, ROLES), rng, folder / "short")


def main(args: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=3.0, help="approximate length of each part's undisturbed run")
    parser.add_argument("--seed", type=int, default=0, help="seed of the runs and of the kills")
    parser.add_argument("--short", action="store_true", help="half a minute of SAC, each role killed once")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the result")
    parser.add_argument("--keep", type=Path, help="folder in which to leave the runs")
    given = parser.parse_args(args)
    with tempfile.TemporaryDirectory(prefix="sheeprl_chaos_") as temporary:
        folder = given.keep.resolve() if given.keep else Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        verdicts: dict[str, Verdict] = {}
        described = record.describe("configs")
        for name in ["sac"] if given.short else given.parts:
            part = PARTS[name]
            try:
                short = given.short
                verdict = run_short(given.seed, folder) if short else run_part(part, given.minutes, given.seed, folder)
            except RuntimeError as error:
                verdicts[name] = Verdict(wrong=[str(error)])
                print(f"\n{part.title}: {error}", flush=True)
                continue
            print_part(part, verdict)
            sys.stdout.flush()
            verdicts[name] = verdict
    if not given.short:
        path = given.out / "chaos.json"
        parts = {name: asdict(verdict) for name, verdict in verdicts.items()}
        record.write(path, described | {"minutes": given.minutes, "seed": given.seed, "parts": parts})
        print(f"\n{path}")
    sys.exit(any(verdict.wrong for verdict in verdicts.values()))


if __name__ == "__main__":
    main()
