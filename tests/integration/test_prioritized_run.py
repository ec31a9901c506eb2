"""Prioritized replay of n-step returns in whole runs: priorities come back, and are kept when a run is resumed."""

import numpy as np
import pytest

from sheeprl.buffer import ReplayBuffer
from sheeprl.checkpoint.run_dir import checkpoints
from sheeprl.utils.errors import ConfigError
from tests.helpers.prioritized_sac import PrioritizedSACArgs
from tests.helpers.runs import largest_difference, lines, run, saved

NAME = "tests.helpers.prioritized_sac:PrioritizedSAC"
SETTINGS = [f"algo.name={NAME}", "run.mode=coupled"]


def buffer_of(folder):
    data = PrioritizedSACArgs(name=NAME).data()
    buffer = ReplayBuffer(20_000, data.sampler, prioritized=data.prioritized)
    buffer.load(checkpoints(folder)[-1] / "buffer" / "shard_0")
    return buffer


def test_losses_set_the_priorities_by_which_samples_are_drawn(tmp_path):
    result = run(tmp_path, "sac", *SETTINGS, "run.total_steps=300")
    assert result.gradient_steps == result.policy_steps - 50
    buffer = buffer_of(tmp_path)
    priorities = buffer.priorities.tree.leaves[: len(buffer)]
    assert len(np.unique(priorities)) > 200  # not the one that all began with
    importance = [line["Buffer/importance"] for line in lines(tmp_path) if "Buffer/importance" in line]
    assert 0 < min(importance) < 0.9


def test_ranks_with_parts_of_their_own_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"trainer\.devices=2: in coupled mode .* samples by priorities"):
        run(tmp_path, "sac", *SETTINGS, "run.total_steps=300", "trainer.devices=2", "players.num=2")


def test_a_resumed_run_goes_on_with_its_priorities(tmp_path):
    run(tmp_path, "sac", *SETTINGS, "run.total_steps=300")
    draws = [buffer_of(tmp_path).sample(16, 3)["index"] for _ in range(2)]
    assert (draws[0] == draws[1]).all()
    before = saved(tmp_path)["agent"]
    run(tmp_path, "sac", *SETTINGS, "run.total_steps=400", "run.resume=true")
    assert largest_difference(before, saved(tmp_path)["agent"]) > 0


def test_priorities_and_newest_first_do_not_go_together(tmp_path):
    with pytest.raises(ConfigError, match=r"buffer\.online_fraction=0\.1: .* has its own sampling"):
        run(tmp_path, "sac", *SETTINGS, "run.total_steps=300", "buffer.online_fraction=0.1")
