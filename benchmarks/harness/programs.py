"""Workloads of benchmarks that compare whole runs, and the programs that run them, each in a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import record
from benchmarks.harness.record import Json
from benchmarks.peers.environments import HERE, bare_environment, python_of

# The other programs neither evaluate nor write checkpoints.
BARE = ("eval.episodes=0", "checkpoint.every=1000000000", "buffer.checkpoint=false", "log.level=warning")


class BenchmarkError(RuntimeError):
    """Raised when a program fails, or when programs do different work."""


@dataclass(frozen=True)
class Workload:
    """Work that every program does in the same way.

    Args:
        name: name in the peers' scripts.
        title: title in the table.
        config: configuration file in the repository.
        overrides: overrides of the file; they fix all settings that make the work equal.
        steps: policy steps.
        rollout: policy steps and updates of a rollout; None if the updates follow from the policy steps.
        tolerance: part by which the programs' updates may differ, for rounds that end at other steps.
        peers: keys of the other libraries that can do the work; None for all of the benchmark.
    """

    name: str
    title: str
    config: str
    overrides: tuple[str, ...]
    steps: int
    rollout: tuple[int, int] | None = None
    tolerance: float = 0.0
    peers: tuple[str, ...] | None = None

    def steps_of_peer(self, done: Timing) -> int:
        """Return the policy steps after which another program has taken as many gradient steps as SheepRL did.

        SheepRL doesn't count an episode's end row as a policy step, so on-policy it may collect one more rollout to
        reach the same number of steps.
        """
        if self.rollout is None:
            return done.policy_steps
        steps, updates = self.rollout
        return done.updates // updates * steps


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            "ppo_cartpole",
            "PPO CartPole-v1, 4 envs, rollout 128, batch 64, 10 epochs, 65,536 steps",
            "configs/ppo.yaml",
            ("env.num_envs=4", "algo.rollout_steps=128", "algo.batch_size=64", "algo.epochs=10"),
            65_536,
            rollout=(512, 80),
        ),
        Workload(
            "sac_halfcheetah",
            "SAC HalfCheetah-v5, 4 envs, one gradient step per policy step, batch 256, 4,096 steps",
            "configs/sac_halfcheetah.yaml",
            ("env.num_envs=4", "algo.replay_ratio=1", "algo.batch_size=256", "algo.learning_starts=100"),
            4096,
        ),
    )
}

COMPILED = ("trainer.compile=true",)  # the runs stand for longer ones, which compile by default
PICTURES = (
    *COMPILED,
    "env.id=benchmarks.peers.pictures:Pictures-v0",
    "env.wrappers=[]",
    *("env.num_envs=8", "algo.rollout_steps=128", "algo.batch_size=256", "algo.epochs=4", "algo.anneal=false"),
)
POLICIES = {
    workload.name: workload
    for workload in (
        Workload(
            "ppo_grid",
            "PPO with MinAtar's CNN, pictures of 10 x 10, 8 envs, rollout 128, batch 256, 4 epochs, 16,384 steps",
            "configs/ppo_atari.yaml",
            (*PICTURES, "env.kwargs={size: 10}", "algo.cnn=small", "algo.cnn_features=128"),
            16_384,
            rollout=(1024, 16),
        ),
        Workload(
            "ppo_pictures",
            "PPO with NatureCNN, pictures of 84 x 84, 8 envs, rollout 128, batch 256, 4 epochs, 2,048 steps",
            "configs/ppo_atari.yaml",
            (*PICTURES, "env.kwargs={size: 84}", "algo.cnn=nature", "algo.cnn_features=512"),
            2048,
            rollout=(1024, 16),
        ),
        Workload(
            "ppo_recurrent",
            "PPO with an LSTM, CartPole-v1 without velocities, 8 envs, rollout 32, batch 256, 20 epochs, 8,192 steps",
            "configs/ppo_recurrent.yaml",
            (
                *COMPILED,
                "algo.anneal=false",
                "algo.normalize_obs=false",
                "algo.memory_size=64",
                "algo.hidden_sizes=[64]",
            ),
            8192,
            rollout=(256, 20),
        ),
    )
}
"""Workloads of `benchmarks.policies`."""

VALUES = {
    workload.name: workload
    for workload in (
        Workload(
            "dqn_cartpole",
            "DQN CartPole-v1, 1 env, 128 updates of 64 transitions every 256 policy steps, 25,600 steps",
            "configs/dqn.yaml",
            (*COMPILED, "algo.learning_starts=1024"),
            25_600,
            tolerance=0.03,
            peers=("sb3",),
        ),
        Workload(
            "impala_cartpole",
            "IMPALA CartPole-v1, 2 players of 4 envs, rollout 50, one update per 400 rows, 200,000 steps",
            "configs/impala.yaml",
            (*COMPILED, "players.num=2", "env.num_envs=4", "algo.rollout_steps=50", "algo.hidden_sizes=[64,64]"),
            200_000,
            peers=("rllib",),
        ),
    )
}
"""Workloads of `benchmarks.values`."""

WORLDS = {
    workload.name: workload
    for workload in (
        Workload(
            "dreamer_v3_cartpole",
            "DreamerV3 1M CartPole-v1, 4 envs, an update of 16 sequences of 64 rows every 2 policy steps, imagination "
            "from all rows, 576 steps",
            "configs/dreamer_v3.yaml",
            (
                *(
                    *COMPILED,
                    "env.num_envs=4",
                    "algo.size=1M",
                    "algo.deter=512",
                    "algo.replay_ratio=0.5",
                    "algo.learning_starts=480",
                ),
                *("algo.batch_size=16", "algo.sequence_length=64", "algo.horizon=15", "algo.imag_last=64"),
                "buffer.size=100000",
            ),
            576,
            tolerance=0.1,
            peers=("sheeprl_084",),
        ),
    )
}
"""Workloads of `benchmarks.worlds`."""


@dataclass(frozen=True)
class Timing:
    """Measurements of one program's run.

    Args:
        loop: seconds without start-up.
        process: seconds of the whole command.
        updates: gradient steps, counted by the program.
        policy_steps: policy steps, counted by the program.
        where: seconds by activity, if the program reports them.
        versions: versions of the program's packages.
        idle_while_ahead: fraction of time that the trainer waited while players waited for it, if reported.
    """

    loop: float
    process: float
    updates: int
    policy_steps: int
    where: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    idle_while_ahead: float | None = None

    @property
    def rate(self) -> float:
        """Return the updates per second of the loop."""
        return self.updates / self.loop


def timed(command: Sequence[str], variables: Mapping[str, str], folder: Path) -> tuple[float, str]:
    """Run a command; return its seconds and its stdout.

    Raises:
        BenchmarkError: its exit code isn't 0.
    """
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        printed = (done.stdout + done.stderr)[-4000:]
        raise BenchmarkError(f"{' '.join(command)}: exit code {done.returncode}\n{printed}")
    return seconds, done.stdout


# --------------------------------------------------------------------------------------------- SheepRL


@dataclass(frozen=True)
class SheepRL:
    """SheepRL in one of its two placements.

    Args:
        mode: `run.mode`.
        cache: cache folder of compiled graphs, shared by all runs; None for a new one in each run, as on a machine on
            which SheepRL never ran.
        extra: further settings.
    """

    mode: str
    cache: Path | None
    extra: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return the name in the table."""
        return f"SheepRL {self.mode}" + ("" if self.cache else ", first time")

    def run(self, workload: Workload, threads: int, steps: int) -> Timing:
        """Run the workload."""
        with tempfile.TemporaryDirectory(prefix="sheeprl_speed_") as folder:
            run_dir = Path(folder) / "run"
            words = (*workload.overrides, *BARE, f"run.total_steps={steps}", f"run.mode={self.mode}")
            words += (f"run.dir={run_dir}", f"trainer.threads={threads}", *self.extra)
            command = [sys.executable, "-m", "sheeprl", "run", workload.config, *words]
            cache = self.cache or Path(folder) / "cache"
            process, _ = timed(command, record.environment() | caching_in(cache), record.ROOT)
            lines = record.read_metrics(run_dir)
        end = next(line for line in reversed(lines) if line.get("event") == "end")
        loop = end["wall_time"]
        where = where_it_went(lines, loop, self.mode == "coupled") | {"start-up": process - loop}
        idle = idle_while_ahead(lines)
        return Timing(loop, process, end["gradient_steps"], end["policy_steps"], where, idle_while_ahead=idle)

    def warm_up(self, workload: Workload, threads: int) -> None:
        """Fill the cache with the compiled graphs of a workload."""
        if self.cache is not None:
            with_compile = SheepRL(self.mode, self.cache, (*self.extra, "trainer.compile=true"))
            with_compile.run(workload, threads, max(512, workload.steps // 8))


def caching_in(folder: Path) -> dict[str, str]:
    """Return the environment variables that make SheepRL and PyTorch cache compiled graphs in a folder."""
    return {"SHEEPRL_CACHE": str(folder), "TORCHINDUCTOR_CACHE_DIR": str(folder / "torch")}


@contextmanager
def temporary_cache() -> Iterator[Path]:
    """Yield a folder for compiled graphs, and remove it at the end."""
    with tempfile.TemporaryDirectory(prefix="sheeprl_cache_") as folder:
        yield Path(folder)


def windows(lines: Sequence[Json]) -> Iterator[tuple[float, int, Json]]:
    """Yield seconds, gradient steps and metrics between each two lines of a run's metrics."""
    steps = updates = 0
    for line in lines:
        if "Time/sps" not in line or line["step"] <= steps:
            continue
        seconds = (line["step"] - steps) / line["Time/sps"]
        yield seconds, int(line["Params/gradient_steps"]) - updates, line
        steps, updates = line["step"], int(line["Params/gradient_steps"])


def where_it_went(lines: Sequence[Json], loop: float, coupled: bool = False) -> dict[str, float]:
    """Return the seconds of a run's loop by activity of the learner, from the run's timers. `other` is the rest."""
    breakdown: Counter[str] = Counter()
    for seconds, updates, line in windows(lines):
        breakdown["updating"] += updates / line["Time/sps_train"] if updates else 0.0
        if coupled:
            breakdown["playing"] += seconds * line["Time/sps"] / line["Time/sps_env_interaction"]
        else:
            breakdown["waiting for players"] += seconds * line["Time/trainer_idle"]
        breakdown["waiting for batches"] += seconds * line["Time/trainer_wait_batch"]
        breakdown["compiling"] += seconds * line.get("Time/compiling", 0.0)
        breakdown["checkpoints"] += seconds * line["Time/checkpoint_stall"]
    return dict(breakdown) | {"other": max(0.0, loop - sum(breakdown.values()))}


PLAYERS_WAIT = 0.05  # fraction of time that players wait for the trainer if collection is ahead


def idle_while_ahead(lines: Sequence[Json]) -> float | None:
    """Return the fraction of time that the trainer waited while collection was ahead; None if it never was.

    The first window is ignored, because training can't start without data.
    """
    waited = total = 0.0
    for seconds, _, line in list(windows(lines))[1:]:
        if line["Time/player_idle"] >= PLAYERS_WAIT:
            waited += seconds * (line["Time/trainer_idle"] + line["Time/trainer_wait_batch"])
            total += seconds
    return waited / total if total else None


# ----------------------------------------------------------------------------------------------- peers


@dataclass(frozen=True)
class Peer:
    """Another library.

    Args:
        key: name of its script and of its environment.
        name: name in the table.
        limited_to: number of updates after which a slow library ends, by workload; then its rate is compared.
        python: Python of an environment that has it; None for the one that the benchmark creates.
        device: `cpu` or `cuda`.
    """

    key: str
    name: str
    limited_to: Mapping[str, int] = field(default_factory=dict)
    python: str | None = None
    device: str = "cpu"

    def run(self, workload: Workload, threads: int, steps: int) -> Timing:
        """Run the workload."""
        words = ["--steps", str(steps), "--threads", str(threads), "--device", self.device]
        if workload.name in self.limited_to:
            words += ["--updates", str(self.limited_to[workload.name])]
        command = [self.python or python_of(self.key), str(HERE / f"{self.key}.py"), workload.name, *words]
        with tempfile.TemporaryDirectory(prefix=f"{self.key}_") as folder:
            process, printed = timed(command, bare_environment(threads), Path(folder))
        result = json.loads(printed.splitlines()[-1])
        return Timing(result["loop"], process, result["updates"], result["policy_steps"], versions=result["versions"])


PEERS = {
    peer.key: peer
    for peer in (
        Peer("sb3", "Stable-Baselines3"),
        Peer("sheeprl_084", "SheepRL 0.8.4"),
        Peer("rllib", "RLlib", {"ppo_cartpole": 3200, "sac_halfcheetah": 300, "impala_cartpole": 300}),
    )
}


def load() -> float:
    """Return the load average of the last minute."""
    return round(os.getloadavg()[0], 2)
