"""Test complete runs with prioritized replay of n-step returns."""

import numpy as np
import pytest

from sheeprl.algos.sac.args import SACArgs
from sheeprl.buffer import ReplayBuffer
from sheeprl.checkpoint.run_dir import checkpoints
from sheeprl.debug.replayer import replay_run
from sheeprl.utils.errors import ConfigError
from tests.helpers.runs import largest_difference, ray_session, run, saved

SETTINGS = ["algo.prioritized=true", "algo.n_step=3", "run.mode=coupled"]


def buffer_of(folder):
    """Return the saved buffer of a run."""
    data = SACArgs(name="sac", prioritized=True, n_step=3).data()
    buffer = ReplayBuffer(20_000, data.sampler, prioritized=data.prioritized)
    buffer.load(checkpoints(folder)[-1] / "buffer" / "shard_0")
    return buffer


def test_losses_set_the_priorities(tmp_path):
    """Losses set the priorities of samples."""
    result = run(tmp_path, "sac", *SETTINGS, "run.total_steps=300")
    assert result.gradient_steps == result.policy_steps - 50
    buffer = buffer_of(tmp_path)
    priorities = buffer.priorities.tree.leaves[: len(buffer)]
    assert len(np.unique(priorities)) > 200  # not the initial one only
    assert 0 < buffer.sample(64)["importance"].min() < 0.9


def test_separate_buffers_per_rank_are_rejected(tmp_path):
    """Separate buffers per rank are rejected."""
    with pytest.raises(ConfigError, match=r"trainer\.devices=2: in coupled mode .* samples by priorities"):
        run(tmp_path, "sac", *SETTINGS, "run.total_steps=300", "trainer.devices=2", "players.num=2")


def test_a_resumed_run_restores_its_priorities(tmp_path):
    """A resumed run restores its priorities."""
    run(tmp_path, "sac", *SETTINGS, "run.total_steps=300")
    draws = [buffer_of(tmp_path).sample(16, 3)["index"] for _ in range(2)]
    assert (draws[0] == draws[1]).all()
    before = saved(tmp_path)["agent"]
    run(tmp_path, "sac", *SETTINGS, "run.total_steps=400", "run.resume=true")
    assert largest_difference(before, saved(tmp_path)["agent"]) > 0


def test_priorities_and_online_samples_exclude_each_other(tmp_path):
    """Priorities and `online_fraction` exclude each other."""
    with pytest.raises(ConfigError, match=r"buffer\.online_fraction=0\.1: .* has its own sampling"):
        run(tmp_path, "sac", *SETTINGS, "run.total_steps=300", "buffer.online_fraction=0.1")


@pytest.mark.slow
def test_a_recorded_run_with_priorities_of_the_players_is_reexecuted(tmp_path):
    """A recorded run with two shards, whose players compute the initial priorities, is re-executed bit for bit."""
    words = ["run.mode=decoupled", "algo.initial_priority=error", "algo.env_epsilon=0.4", "algo.prioritized=true"]
    words += [
        "algo.n_step=3",
        "algo.learning_starts=100",
        "buffer.shards=2",
        "players.num=2",
        "log.record=true",
        "run.total_steps=800",
    ]
    with ray_session(cpus=4):
        result = run(tmp_path, "dqn", *words, "trainer.compile=false", env="CartPole-v1")
    again = replay_run(str(tmp_path), report=lambda text: None)
    assert again.difference is None and again.gradient_steps == result.gradient_steps > 0
