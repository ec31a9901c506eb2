"""Dummy data for the warm-up of the learner, which compiles before players have collected any data."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from sheeprl.actors.messages import Fragment
from sheeprl.actors.replay import Replay, build_replay
from sheeprl.actors.rollout import RolloutWriter, first_row
from sheeprl.algos.base import Algorithm, Tensors
from sheeprl.buffer.storage import Rows
from sheeprl.config.schema import Config
from sheeprl.envs.transforms import newest_frames

FRAGMENTS = 64  # most dummy fragments; the warm-up must not take longer than the first collection


def dummy_batches(config: Config, algorithm: Algorithm[Any], steps: int) -> tuple[int | None, Rows]:
    """Return `order` and the one block for an update of `steps` gradient steps, the arguments of `Learner.update`.

    A new policy acts and a small replay stores and samples the rows, as in a run. Observations and rewards are
    constants.

    Args:
        config: configuration of the run, resolved; all ranks must sample from one replay.
        algorithm: algorithm of the run.
        steps: number of gradient steps.

    Raises:
        NotEnoughDataError: a sample is longer than the dummy data.
    """
    replay = build_replay(_with_small_replay(config), frame_stack=algorithm.spaces.frame_stack)
    _fill(replay, config, algorithm)
    if config.buffer.shards == 1:
        return None, replay.sample(steps, progress=0.0)[1]
    return 0, replay.sample_part(steps * replay.batch_size, progress=0.0)[1]


def _with_small_replay(config: Config) -> Config:
    """Return the configuration with an unprofiled replay of one shard in memory that just holds the dummy data."""
    size = config.buffer.size
    assert size is not None
    most = FRAGMENTS * config.fragment_rows * config.env.num_envs if config.algo.data().is_off_policy else size
    small = config.buffer.model_copy(update={"size": min(size, most), "shards": 1, "memmap": False})
    return config.model_copy(update={"buffer": small, "log": config.log.model_copy(update={"profile": False})})


def _fill(replay: Replay, config: Config, algorithm: Algorithm[Any]) -> None:
    """Add the fragments of a rollout, or else the fragments for one sample, which batches may repeat."""
    rows = newest_frames(dummy_rows(config, algorithm), algorithm.spaces.frame_stack)
    if not algorithm.data().is_off_policy:
        for player in range(config.round_fragments):
            replay.add(Fragment(player, 0, 0, rows))
        return
    for sequence in range(FRAGMENTS):
        if replay.add(Fragment(0, 0, sequence, rows)).available:
            return


@torch.inference_mode()
def dummy_rows(config: Config, algorithm: Algorithm[Any]) -> Rows:
    """Return `[T + 1, B, *]` rows of a fragment in which each environment ends an episode."""
    envs, count, space = config.env.num_envs, config.fragment_rows, algorithm.spaces.observation
    policy = algorithm.build_policy().eval()
    generator, state = torch.Generator().manual_seed(0), Tensors()
    obs, never = dummy_observations(space, envs), np.zeros(envs, np.bool_)
    rollout = RolloutWriter(space, first_row(obs, envs), count, progress=0.0)
    for t in range(count):
        output = algorithm.act(policy, rollout.inputs[t], state, "explore", generator)
        state = output.rnn_state
        rollout.write_action(t, output)
        rollout.write_step(t + 1, obs, np.zeros(envs, np.float32), never, ~never if t + 1 == count - 1 else never)
    return rollout.rows


def dummy_observations(space: gymnasium.Space[Any], envs: int) -> Any:
    """Return `[B, *]` observations inside the space, as close to 0 as possible."""
    if isinstance(space, spaces.Dict):
        return {name: dummy_observations(part, envs) for name, part in space.items()}
    if isinstance(space, spaces.Box):
        return np.repeat(np.clip(np.zeros_like(space.low), space.low, space.high)[None], envs, axis=0)
    batched = batch_space(space, envs)
    batched.seed(0)
    return batched.sample()
