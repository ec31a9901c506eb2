"""Measure players: the cost of a vector step relative to CleanRL's loop, and scaling with the number of players.

`python -m benchmarks playing`; `--only step` needs no Ray.

The cost of a step is measured on environments that cost nothing, in turn with a loop that does the same work as
CleanRL's PPO. Scaling is measured in whole runs, without their start-up, on an environment that sleeps; runs with one
player and with many take turns. Other load on the machine slows down mainly the runs with many.
"""

from __future__ import annotations

import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import nn

from benchmarks.harness import turns
from benchmarks.harness.bounds import Bound
from benchmarks.harness.record import Json
from benchmarks.harness.subject import Seen, ran
from sheeprl.actors import player
from sheeprl.actors.player import Player
from sheeprl.config import checks

ENVS = 4
ROLLOUT = 128
ROLLOUTS = 16  # per measurement
SECONDS = 20.0  # of collection in a run on sleeping environments
SKIPPED = 3  # lines of metrics during which players may still start


# ------------------------------------------------------------------------------------------------ steps


class Free(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """Vector of four CartPoles that cost nothing: it always returns the same arrays."""

    def __init__(self) -> None:
        """Allocate the arrays."""
        self.num_envs = ENVS
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.single_action_space = gymnasium.spaces.Discrete(2)
        self.obs = np.random.default_rng(0).uniform(-1, 1, (ENVS, 4)).astype(np.float32)
        self.reward, self.flag = np.ones(ENVS), np.zeros(ENVS, np.bool_)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Return the constant observation."""
        return self.obs, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Return the constant arrays."""
        return self.obs, self.reward, self.flag, self.flag, {}


class SeparateNetworks(nn.Module):
    """Actor and critic of two layers of 64; CleanRL calls both at every step."""

    def __init__(self) -> None:
        """Build both networks."""
        super().__init__()
        self.actor, self.critic = self._network(2), self._network(1)

    @staticmethod
    def _network(outputs: int) -> nn.Sequential:
        """Build a network of two hidden layers."""
        return nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))

    def decide(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return action, log-probability, entropy and value."""
        distribution = torch.distributions.Categorical(logits=self.actor(obs))
        action = distribution.sample()
        return action, distribution.log_prob(action), distribution.entropy(), self.critic(obs)


def cleanrl_loop(agent: SeparateNetworks, envs: Free) -> None:
    """Collect one rollout like CleanRL's PPO, into tensors allocated before."""
    shape = (ROLLOUT, ENVS)
    stored = {name: torch.zeros(shape) for name in ("action", "logprob", "reward", "done", "value")}
    observations = torch.zeros((*shape, 4))
    obs, done = torch.Tensor(envs.reset()[0]), torch.zeros(ENVS)
    for step in range(ROLLOUT):
        observations[step], stored["done"][step] = obs, done
        with torch.no_grad():
            action, logprob, _, value = agent.decide(obs)
            stored["value"][step] = value.flatten()
        stored["action"][step], stored["logprob"][step] = action, logprob
        found, reward, terminated, truncated, _ = envs.step(action.cpu().numpy())
        stored["reward"][step] = torch.tensor(reward).view(-1)
        obs, done = torch.Tensor(found), torch.Tensor(np.logical_or(terminated, truncated))


def make_player() -> Player:
    """Return a PPO player that has made its environments, which cost nothing."""
    tree = {"algo": {"name": "ppo", "hidden_sizes": [64, 64]}, "env": {"id": "CartPole-v1", "num_envs": ENVS}}
    found = checks.check(tree | {"run": {"mode": "coupled"}})
    ours = Player(found.config, found.spaces, 0)
    make_vector_env = player.make_vector_env
    try:
        player.make_vector_env = lambda *args: Free()
        ours.collect(1, None, 0, "explore")
    finally:
        player.make_vector_env = make_vector_env
    return ours


def per_step(clock: Callable[[], float], rollout: Callable[[], Any]) -> float:
    """Return the microseconds of a vector step."""
    started = clock()
    for _ in range(ROLLOUTS):
        rollout()
    return (clock() - started) / (ROLLOUTS * ROLLOUT) * 1e6


def step(rounds: int) -> Json:
    """Measure the cost of a player's step."""
    torch.set_num_threads(1)
    ours, theirs = make_player(), functools.partial(cleanrl_loop, SeparateNetworks(), Free())
    play = functools.partial(ours.collect, ROLLOUT, None, 0, "explore")
    measured = turns.in_turn(
        {
            "SheepRL": functools.partial(per_step, time.perf_counter, play),
            "CleanRL's loop": functools.partial(per_step, time.perf_counter, theirs),
            "SheepRL, CPU time": functools.partial(per_step, time.thread_time, play),
            "CleanRL's loop, CPU time": functools.partial(per_step, time.thread_time, theirs),
        },
        rounds,
    )
    ratios = turns.ratios(measured["SheepRL"], measured["CleanRL's loop"])
    cpu = turns.ratios(measured["SheepRL, CPU time"], measured["CleanRL's loop, CPU time"])
    bounds = [
        Bound.of("time of a step over CleanRL's", ratios, at_most=0.5, target=0.25),
        Bound.of("the same, CPU time", cpu),
    ]
    title = f"a vector step of {ENVS} environments that cost nothing, policy of 2 x 64, microseconds"
    turns.print_rounds(title, measured, bounds)
    return turns.as_json("step", title, measured, bounds)


# ---------------------------------------------------------------------------------------------- scaling


@dataclass(frozen=True)
class Scaling:
    """A run whose environments sleep.

    Args:
        name: name of the case.
        title: title in the table.
        words: algorithm and environment.
        at_least: required part of linear scaling.
        target: value to aim for.
    """

    name: str
    title: str
    words: tuple[str, ...]
    at_least: float
    target: float


COLLECTING = Scaling(
    "scaling",
    "players",
    (
        *("sac", "env.id=benchmarks.cases.sleeping:Sleeping-v0", "algo.hidden_sizes=[64,64]"),
        *("algo.replay_ratio=0", "algo.learning_starts=0"),
    ),
    at_least=0.93,
    target=0.98,
)
APEX = Scaling(
    "scaling_apex",
    "Ape-X, one gradient step per four policy steps; players",
    (
        *("configs/apex_cartpole.yaml", "env.id=benchmarks.cases.sleeping:SleepingDiscrete-v0"),
        *("algo.replay_ratio=0.25", "trainer.compile=true"),
    ),
    at_least=0.95,
    target=0.98,
)


def steps_per_second(work: Scaling, players: int, sleep: float, rows: int) -> float:
    """Measure a run whose environments sleep, after all players have started."""
    words = (
        *(*work.words, f"env.kwargs={{sleep: {sleep}}}", "env.num_envs=1", "eval.episodes=0"),
        *(f"players.num={players}", f"players.fragment_rows={rows}", f"log.every={players * rows}"),
        *("trainer.threads=1", "trainer.accelerator=cpu", "checkpoint.every=100000000", "log.level=warning"),
        f"run.total_steps={round(players * SECONDS / sleep)}",
    )
    with tempfile.TemporaryDirectory() as folder:
        lines = ran(words, Path(folder) / "run").lines
    # Without the last line: before the first checkpoint, a run tests for seconds if environments can be saved.
    return rate([line for line in lines if "Time/sps" in line.values][SKIPPED:-1])


def rate(lines: Sequence[Seen]) -> float:
    """Return policy steps per second between the first and the last line."""
    first, last = lines[0].values, lines[-1].values
    return float((last["step"] - first["step"]) / (last["time"] - first["time"]))


def scaling(work: Scaling, many: int, sleep: float, rows: int, rounds: int) -> Json:
    """Measure how close `many` players come to `many` times the speed of one."""
    # By default Ray lowers the priority of its workers.
    os.environ.setdefault("RAY_worker_niceness", "0")
    measured = turns.in_turn(
        {
            f"{players} player{'s' * (players > 1)}": functools.partial(steps_per_second, work, players, sleep, rows)
            for players in (1, many)
        },
        rounds,
        warm_up=False,
    )
    one, many_players = measured.values()
    # Use the median over all rounds: the speed of a single player hardly varies.
    linear = many * statistics.median(one)
    bounds = [
        Bound.of("of linear", [each / linear for each in many_players], at_least=work.at_least, target=work.target),
        Bound.of("of what the sleep alone would allow", [each * sleep / many for each in many_players]),
    ]
    title = f"{work.title} of one environment that sleeps {sleep * 1000:g} ms a step, policy steps per second"
    turns.print_rounds(title, measured, bounds)
    return turns.as_json(f"{work.name}_{many}", title, measured, bounds)


CASES: dict[str, Callable[[int], Json]] = {
    "step": step,
    "scaling_8": functools.partial(scaling, COLLECTING, 8, 0.005, 64),
    "scaling_32": functools.partial(scaling, COLLECTING, 32, 0.05, 16),
    "scaling_apex_8": functools.partial(scaling, APEX, 8, 0.005, 64),
}


def main(args: Sequence[str] | None = None) -> None:
    """Run the cases."""
    turns.measure_cases("playing", (__doc__ or "").splitlines()[0], CASES, 5, args)


if __name__ == "__main__":
    main()
