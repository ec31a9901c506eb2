"""Other libraries' replay buffers for `benchmarks.replay`: fill one of them, then measure it on request.

The module is independent of SheepRL, so its environment needs only the library.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

from benchmarks.harness.worker import Figures, seconds_per_call, serve

BATCH, CHUNK = 256, 64
OBS, ACTION = 17, 6
EPISODE = 1000
ALPHA, BETA = 0.6, 0.4

Call = Callable[[int], object]
"""Function that samples a number of transitions, and updates their priorities if the buffer is prioritized."""


def transitions(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Return `count` random transitions."""
    return {
        "obs": rng.standard_normal((count, OBS), np.float32),
        "action": rng.standard_normal((count, ACTION), np.float32),
        "reward": rng.standard_normal(count, np.float32),
        "terminated": rng.random(count) < 1 / EPISODE,
        "truncated": np.zeros(count, bool),
        "next_obs": rng.standard_normal((count, OBS), np.float32),
    }


# ------------------------------------------------------------------------------------------- libraries


def sb3(stored: int, prioritized: bool) -> Call:
    """Fill the buffer of Stable-Baselines3 with 4 environments."""
    from gymnasium.spaces import Box
    from stable_baselines3.common.buffers import ReplayBuffer

    if prioritized:
        raise NotImplementedError("Stable-Baselines3 has no prioritized buffer")
    envs = 4
    spaces = (Box(-np.inf, np.inf, (size,), np.float32) for size in (OBS, ACTION))
    buffer = ReplayBuffer(stored, *spaces, device="cpu", n_envs=envs)
    row = transitions(np.random.default_rng(0), envs)
    infos: list[dict[str, Any]] = [{} for _ in range(envs)]
    for _ in range(stored // envs):
        buffer.add(row["obs"], row["next_obs"], row["action"], row["reward"], row["terminated"], infos)
    return buffer.sample


def cpprb(stored: int, prioritized: bool) -> Call:
    """Fill the buffer of cpprb, with `next_obs` stored."""
    import cpprb as library

    rng = np.random.default_rng(0)
    fields = {
        "obs": {"shape": OBS},
        "action": {"shape": ACTION},
        "reward": {},
        "terminated": {"dtype": np.bool_},
        "truncated": {"dtype": np.bool_},
        "next_obs": {"shape": OBS},
    }
    kind = library.PrioritizedReplayBuffer if prioritized else library.ReplayBuffer
    buffer = kind(stored, fields, **({"alpha": ALPHA} if prioritized else {}))
    for _ in range(stored // EPISODE):
        buffer.add(**transitions(rng, EPISODE))
    if not prioritized:
        return buffer.sample
    priorities = rng.random(BATCH * CHUNK) + 0.01

    def sample_and_update(count: int) -> None:
        """Sample and update the priorities of the samples."""
        batch = buffer.sample(count, beta=BETA)
        buffer.update_priorities(batch["indexes"], priorities[:count])

    return sample_and_update


def torchrl(stored: int, prioritized: bool, memmap: bool = False) -> Call:
    """Fill TorchRL's buffer of TensorDicts, in memory or memory-mapped."""
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyMemmapStorage, LazyTensorStorage, ReplayBuffer, TensorDictReplayBuffer
    from torchrl.data.replay_buffers.samplers import PrioritizedSampler

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    storage: Any
    if memmap:
        folder = tempfile.TemporaryDirectory(prefix="replay_peer_")
        FOLDERS.append(folder)
        storage = LazyMemmapStorage(stored, scratch_dir=folder.name)
    else:
        storage = LazyTensorStorage(stored)
    buffer: ReplayBuffer
    if prioritized:
        buffer = TensorDictReplayBuffer(storage=storage, sampler=PrioritizedSampler(stored, ALPHA, BETA))
    else:
        buffer = TensorDictReplayBuffer(storage=storage)
    part = stored // 10
    for _ in range(10):
        columns = {name: torch.from_numpy(values) for name, values in transitions(rng, part).items()}
        after = {"observation": columns.pop("next_obs")}
        after |= {name: columns.pop(name)[:, None] for name in ("reward", "terminated", "truncated")}
        buffer.extend(TensorDict({"observation": columns.pop("obs"), **columns, "next": after}, batch_size=[part]))
    if not prioritized:
        return buffer.sample
    priorities = torch.from_numpy(rng.random(BATCH * CHUNK, np.float32) + 0.01)

    def sample_and_update(count: int) -> None:
        """Sample and update the priorities of the samples."""
        batch = buffer.sample(count)
        buffer.update_priority(batch["index"], priorities[:count])

    return sample_and_update


def torchrl_memmap(stored: int, prioritized: bool) -> Call:
    """Fill TorchRL's memory-mapped storage."""
    return torchrl(stored, prioritized, memmap=True)


def rllib(stored: int, prioritized: bool) -> Call:
    """Fill RLlib's buffer with episodes of 1000 steps as arrays, which its environment runners send.

    Like RLlib's SAC it samples one-step transitions, which it returns as a list of episodes.
    """
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode
    from ray.rllib.utils.replay_buffers import EpisodeReplayBuffer, PrioritizedEpisodeReplayBuffer

    rng = np.random.default_rng(0)
    buffer = PrioritizedEpisodeReplayBuffer(stored, alpha=ALPHA) if prioritized else EpisodeReplayBuffer(stored)
    for _ in range(stored // EPISODE):
        rows = transitions(rng, EPISODE)
        episode = SingleAgentEpisode(
            observations=[*rows["obs"], rows["next_obs"][-1]],
            actions=list(rows["action"]),
            rewards=rows["reward"].tolist(),
            terminated=True,
            len_lookback_buffer=0,
        )
        buffer.add(episode.to_numpy())
    if not prioritized:
        return lambda count: buffer.sample(num_items=count, n_step=1, sample_episodes=True)
    priorities = rng.random(BATCH * CHUNK) + 0.01

    def sample_and_update(count: int) -> None:
        """Sample and update the priorities of the samples."""
        buffer.sample(num_items=count, n_step=1, beta=BETA)
        buffer.update_priorities(priorities[:count])

    return sample_and_update


# ---------------------------------------------------------------------------------------------- timing

FOLDERS: list[object] = []  # folders that live as long as the process
LIBRARIES = {"sb3": sb3, "cpprb": cpprb, "torchrl": torchrl, "torchrl_memmap": torchrl_memmap, "rllib": rllib}
AT_ONCE = ("sb3", "cpprb", "torchrl", "torchrl_memmap")
"""Libraries for which sampling 64 batches by one call is common enough to be measured."""
PACKAGES = {"sb3": "stable-baselines3", "cpprb": "cpprb", "rllib": "ray"}


def prepare(library: str, stored: int, prioritized: bool) -> Callable[[], Figures]:
    """Fill a buffer; return a function that measures seconds per batch of 256."""
    call = LIBRARIES[library](stored, prioritized)

    def measure() -> Figures:
        """Measure one round."""
        figures = {"batch": seconds_per_call(lambda: call(BATCH))}
        if library in AT_ONCE:
            figures["chunk"] = seconds_per_call(lambda: call(BATCH * CHUNK)) / CHUNK
        return figures

    return measure


def main() -> None:
    """Fill the buffer named on the command line and serve measurements."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("--stored", type=int, default=1_000_000)
    parser.add_argument("--prioritized", action="store_true")
    given = parser.parse_args()
    package = PACKAGES.get(given.library, "torchrl")
    serve(
        lambda: prepare(given.library, given.stored, given.prioritized),
        lambda: {package: version(package), "numpy": np.__version__},
    )


if __name__ == "__main__":
    main()
