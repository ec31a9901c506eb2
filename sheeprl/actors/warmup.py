"""What an update will be given, of made-up data: what only depends on its shapes can be done before there is any."""

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

FRAGMENTS = 64  # at most, however long a sequence is: it is done while players play, and must not take longer


def dummy_batches(config: Config, algorithm: Algorithm[Any], steps: int) -> tuple[int | None, Rows]:
    """`order` and the one block of an update of `steps` gradient steps, as `Learner.update` takes them.

    They come about as real ones do: a policy that was just made decides, a replay stores and draws. Only what is found
    in the environment is made up, and is always the same.

    Args:
        config: the run's configuration, resolved; of a run whose ranks all draw from one replay.
        algorithm: whose data it is.
        steps: gradient steps.

    Raises:
        NotEnoughDataError: a sample is longer than what was made up.
    """
    replay = build_replay(_in_little(config))
    _fill(replay, config, algorithm)
    if config.buffer.shards == 1:
        return None, replay.sample(steps, progress=0.0)[1]
    return 0, replay.sample_part(steps * replay.batch_size, progress=0.0)[1]


def _in_little(config: Config) -> Config:
    """The same with a replay of one shard in memory, which is no larger than what is put into it."""
    size, rows = config.buffer.size, config.players.fragment_rows
    assert size is not None and rows is not None
    most = FRAGMENTS * rows * config.env.num_envs if config.algo.data().is_off_policy else size
    return config.model_copy(
        update={"buffer": config.buffer.model_copy(update={"size": min(size, most), "shards": 1, "memmap": False})}
    )


def _fill(replay: Replay, config: Config, algorithm: Algorithm[Any]) -> None:
    """Add what is needed for one sample, which batches may hold many times; of a rollout what every player brings."""
    rows = dummy_rows(config, algorithm)
    if not algorithm.data().is_off_policy:
        for player in range(config.players.num or 1):
            replay.add(Fragment(player, 0, 0, rows))
        return
    for sequence in range(FRAGMENTS):
        if replay.add(Fragment(0, 0, sequence, rows)).available:
            return


@torch.inference_mode()
def dummy_rows(config: Config, algorithm: Algorithm[Any]) -> Rows:
    """`[T + 1, B, *]` arrays of a fragment, in which an episode of every environment ends."""
    assert config.players.fragment_rows is not None
    envs, count, space = config.env.num_envs, config.players.fragment_rows, algorithm.spaces.observation
    policy = algorithm.build_agent().get_submodule("policy").eval()
    generator, state = torch.Generator().manual_seed(0), Tensors()
    obs, never = some_observations(space, envs), np.zeros(envs, np.bool_)
    written = RolloutWriter(space, first_row(obs, envs), count, progress=0.0)
    for t in range(count):
        output = algorithm.act(policy, written.inputs[t], state, "explore", generator)
        state = output.rnn_state
        written.write_action(t, output)
        written.write_step(t + 1, obs, np.zeros(envs, np.float32), never, ~never if t + 1 == count - 1 else never)
    return written.rows


def some_observations(space: gymnasium.Space[Any], envs: int) -> Any:
    """`[B, *]` observations that are neither large nor outside of their space."""
    if isinstance(space, spaces.Dict):
        return {name: some_observations(part, envs) for name, part in space.items()}
    if isinstance(space, spaces.Box):
        return np.repeat(np.clip(np.zeros_like(space.low), space.low, space.high)[None], envs, axis=0)
    several = batch_space(space, envs)
    several.seed(0)
    return several.sample()
