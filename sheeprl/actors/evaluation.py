"""Play whole episodes with fixed seeds and summarize their returns."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sheeprl.envs import transforms
from sheeprl.envs.snapshot import SnapshotEnv
from sheeprl.utils import seeding

if TYPE_CHECKING:
    from sheeprl.algos.base import Algorithm
LANES = 16  # environments that share a call of the policy


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns and lengths of the episodes, in the order of their seeds."""

    mean_return: float
    std_return: float
    returns: list[float]
    lengths: list[int]
    policy_steps: int = 0


class _Lane:
    """One environment, which plays its part of the episodes one after another."""

    def __init__(self, env: Any, episodes: list[tuple[int, int]]) -> None:
        """Begin the first episode."""
        self.env = SnapshotEnv(env)  # checks results as in training
        self.episodes = episodes  # (number, seed)
        self.done: dict[int, tuple[float, int]] = {}
        self.begin()

    def begin(self) -> None:
        """Begin the next episode, if there is one."""
        self.number, seed = self.episodes.pop(0) if self.episodes else (-1, None)
        if self.number >= 0:
            self.obs, _ = self.env.reset(seed=seed)
            self.reward, self.is_first, self.total, self.length = 0.0, True, 0.0, 0

    def step(self, action: Any) -> None:
        """Take one action; at the end of an episode begin the next one."""
        self.obs, self.reward, terminated, truncated, _ = self.env.step(action)
        self.is_first = False
        self.total += self.reward
        self.length += 1
        if terminated or truncated:
            self.done[self.number] = (self.total, self.length)
            self.begin()


def play_episodes(algorithm: Algorithm[Any], policy: Any, envs: list[Any], seeds: list[int]) -> Evaluation:
    """Play one greedy episode per seed, distributed over the environments, and close the environments.

    Args:
        algorithm: algorithm of the policy.
        policy: policy of the agent.
        envs: single environments.
        seeds: seed of each episode's reset.

    Returns:
        Returns and lengths of the episodes.
    """
    from sheeprl.envs.global_rng import OwnGenerators
    from sheeprl.envs.snapshot import close_quietly

    try:
        with OwnGenerators(seeds[0]).in_use():
            done = _play_lanes(algorithm, policy, envs, list(enumerate(seeds)))
    finally:
        for env in envs:
            close_quietly(env)
    returns, lengths = [total for total, _ in done.values()], [length for _, length in done.values()]
    std = statistics.stdev(returns) if len(returns) > 1 else 0.0
    return Evaluation(statistics.fmean(returns), std, returns, lengths)


def _play_lanes(
    algorithm: Algorithm[Any], policy: Any, envs: list[Any], numbered: list[tuple[int, int]]
) -> dict[int, tuple[float, int]]:
    """Play the numbered episodes; return the return and length of each by number."""
    import torch

    from sheeprl.algos.base import PolicyInput

    lanes = [_Lane(env, numbered[i :: len(envs)]) for i, env in enumerate(envs)]
    to_env = transforms.ActionTransform(envs[0].action_space)
    generator = torch.Generator().manual_seed(0)  # greedy actions don't use it, but `act` requires one
    state: dict[str, torch.Tensor] = {}
    with torch.inference_mode():
        while any(lane.number >= 0 for lane in lanes):
            obs = _stack([lane.obs for lane in lanes], algorithm.spaces.observation)
            reward = torch.tensor([lane.reward for lane in lanes])
            row = PolicyInput(obs, reward, torch.tensor([lane.is_first for lane in lanes]))
            output = algorithm.act(policy, row, state, "greedy", generator)
            state = output.rnn_state
            for lane, action in zip(lanes, to_env(output.action.numpy()), strict=True):
                if lane.number >= 0:
                    lane.step(action)
    return dict(sorted(item for lane in lanes for item in lane.done.items()))


def _stack(observations: list[Any], space: Any) -> Any:
    """Return the observations of single environments as one batch of tensors, nested like the space."""
    import torch
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        named = [{str(name): part for name, part in obs.items()} for obs in observations]
        return {name: _stack([obs[name] for obs in named], part) for name, part in space.items()}
    return torch.from_numpy(np.stack(observations).astype(transforms.array_dtype(space)))


def eval_seeds(seed: int, episodes: int) -> list[int]:
    """Return the fixed start seeds of an evaluation."""
    return seeding.seeds(seed, seeding.Role.EVAL, count=episodes)
