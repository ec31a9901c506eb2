"""Play whole episodes with fixed seeds and summarize their returns."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sheeprl.envs import transforms
from sheeprl.envs.results import EPISODE, split_statistics
from sheeprl.envs.snapshot import SnapshotEnv
from sheeprl.envs.timeout import StepWatch
from sheeprl.envs.wrappers.episode_statistics import running_return
from sheeprl.utils import seeding
from sheeprl.utils.text import counted

if TYPE_CHECKING:
    from sheeprl.algos.base import Algorithm, Mode
LANES = 16  # environments that share a call of the policy


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns and lengths of the episodes, in the order of their seeds.

    `cut` is the number of episodes that were cut at the step limit, `named` has the results on the environments of
    `eval.envs`.
    """

    mean_return: float
    std_return: float
    returns: list[float]
    lengths: list[int]
    policy_steps: int = 0
    cut: int = 0
    named: dict[str, Evaluation] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Evaluation:
        """Return the result on an environment of `eval.envs`."""
        return self.named[name]

    def __str__(self) -> str:
        """Return mean and standard deviation of the returns, with their number."""
        episodes = counted(len(self.returns), "episode")
        return f"return {self.mean_return:.2f} ± {self.std_return:.2f} over {episodes}"


def describe_cut(evaluation: Evaluation) -> str:
    """Return the warning about episodes that were cut at the step limit, "" if there are none."""
    if not evaluation.cut:
        return ""
    most = max(evaluation.lengths)
    return (
        f"{evaluation.cut} of {len(evaluation.returns)} evaluation episodes didn't end within "
        f"{counted(most, 'step')} and {'was' if evaluation.cut == 1 else 'were'} cut (eval.step_limit={most})"
    )


class _Lane:
    """One environment, which plays its part of the episodes one after another."""

    def __init__(self, env: Any, episodes: list[tuple[int, int]], max_steps: int | None, watch: StepWatch) -> None:
        """Begin the first episode."""
        self.env = SnapshotEnv(env)  # checks results as in training
        self.episodes = episodes  # (number, seed)
        self.max_steps, self.watch = max_steps, watch
        self.done: dict[int, tuple[float, int]] = {}
        self.cut = 0
        self.begin()

    def begin(self) -> None:
        """Begin the next episode, if there is one."""
        self.number, seed = self.episodes.pop(0) if self.episodes else (-1, None)
        if self.number >= 0:
            self.watch.begin()
            self.obs, _ = self.env.reset(seed=seed)
            self.reward, self.is_first, self.total, self.length = 0.0, True, 0.0, 0

    def step(self, action: Any) -> None:
        """Take one action; at the end of an episode begin the next one."""
        self.watch.begin()
        self.obs, self.reward, terminated, truncated, info = self.env.step(action)
        self.is_first = False
        self.total += self.reward
        self.length += 1
        has_ended = terminated or truncated
        own, _ = split_statistics(info.get(EPISODE, ()))
        is_over = has_ended and (own is None or not math.isnan(own[0]))
        is_cut = not is_over and self.length == self.max_steps
        self.cut += is_cut
        if is_cut:
            self.done[self.number] = (running_return(self.env, self.total), self.length)
            self.begin()
        elif is_over:
            self.done[self.number] = own or (self.total, self.length)
            self.begin()
        elif has_ended:  # such as a lost life, after which the episode continues
            self.watch.begin()
            self.obs, _ = self.env.reset()
            self.reward, self.is_first = 0.0, True


def play_episodes(
    algorithm: Algorithm[Any],
    policy: Any,
    envs: list[Any],
    seeds: list[int],
    max_steps: int | None = None,
    watch: StepWatch | None = None,
    mode: Mode = "greedy",
) -> Evaluation:
    """Play one episode per seed, distributed over the environments, and close the environments.

    Args:
        algorithm: algorithm of the policy.
        policy: policy of the agent.
        envs: single environments.
        seeds: seed of each episode's reset.
        max_steps: steps after which an episode is cut; None for no limit.
        watch: interrupts operations on the environments that hang.
        mode: mode of `Algorithm.act`.

    Returns:
        Returns and lengths of the episodes.

    Raises:
        StoppedError: the run stops.
    """
    from sheeprl.envs.global_rng import OwnGenerators
    from sheeprl.envs.snapshot import close_quietly

    watch = watch or StepWatch(None)
    with OwnGenerators(seeds[0]).in_use(), watch.watching():
        try:
            lanes = _play_lanes(algorithm, policy, envs, list(enumerate(seeds)), max_steps, watch, mode)
        finally:
            watch.begin()  # an environment's close may hang, too
            for env in envs:
                close_quietly(env)
    done = dict(sorted(item for lane in lanes for item in lane.done.items()))
    returns, lengths = [total for total, _ in done.values()], [length for _, length in done.values()]
    std = statistics.stdev(returns) if len(returns) > 1 else 0.0
    return Evaluation(statistics.fmean(returns), std, returns, lengths, cut=sum(lane.cut for lane in lanes))


def _play_lanes(
    algorithm: Algorithm[Any],
    policy: Any,
    envs: list[Any],
    numbered: list[tuple[int, int]],
    max_steps: int | None,
    watch: StepWatch,
    mode: Mode,
) -> list[_Lane]:
    """Play all episodes and return the lanes, which hold the results."""
    import torch

    from sheeprl.algos.base import PolicyInput

    lanes = [_Lane(env, numbered[i :: len(envs)], max_steps, watch) for i, env in enumerate(envs)]
    to_env = transforms.ActionTransform(envs[0].action_space)
    generator = torch.Generator().manual_seed(numbered[0][1])
    state: dict[str, torch.Tensor] = {}
    with torch.inference_mode():
        while any(lane.number >= 0 for lane in lanes):
            watch.check()
            obs = stacked_obs([lane.obs for lane in lanes], algorithm.spaces.observation)
            reward = torch.tensor([lane.reward for lane in lanes])
            is_first = torch.tensor([lane.is_first for lane in lanes])
            row = PolicyInput(obs, reward, is_first, progress=1.0, num_envs=len(lanes))
            output = algorithm.act(policy, row, state, mode, generator)
            state = output.rnn_state
            for lane, action in zip(lanes, to_env(output.action.numpy()), strict=True):
                if lane.number >= 0:
                    lane.step(action)
    return lanes


def stacked_obs(observations: list[Any], space: Any) -> Any:
    """Return the observations of single environments as one batch of tensors, nested like the space."""
    import torch
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        named = [{str(name): part for name, part in obs.items()} for obs in observations]
        return {name: stacked_obs([obs[name] for obs in named], part) for name, part in space.items()}
    return torch.from_numpy(np.stack(observations).astype(transforms.array_dtype(space)))


def eval_seeds(seed: int, episodes: int) -> list[int]:
    """Return the fixed start seeds of an evaluation."""
    return seeding.seeds(seed, seeding.Role.EVAL, count=episodes)
