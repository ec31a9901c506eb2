"""Test the writer of a fragment's rows."""

import numpy as np
import torch
from gymnasium import spaces

from sheeprl.actors.rollout import RolloutWriter, first_row
from sheeprl.algos.base import PolicyOutput

SPACE = spaces.Dict({"where": spaces.Box(-1.0, 1.0, (2,), np.float32), "phase": spaces.Discrete(9)})
NEVER = np.zeros(2, np.bool_)


def observation(number):
    """Return the observation of two environments."""
    return {"where": np.full((2, 2), number, np.float32), "phase": np.full(2, number)}


def test_inputs_share_the_memory_of_the_rows():
    """Policy inputs share the memory of the written rows."""
    rollout = RolloutWriter(SPACE, first_row(observation(0), 2), 2, progress=0.25)
    assert rollout.inputs[0].is_first.all() and rollout.inputs[0].progress == 0.25
    rollout.write_action(0, PolicyOutput(torch.tensor([3, 4]), {"logprob": torch.tensor([-1.0, -2.0])}))
    rollout.write_step(1, observation(5), np.array([1.0, 2.0]), np.array([True, False]), NEVER)
    row = rollout.inputs[1]
    assert row.obs["where"].tolist() == [[5, 5], [5, 5]] and row.obs["phase"].tolist() == [5, 5]
    assert row.reward.tolist() == [1, 2] and not row.is_first.any()
    rollout.write_step(2, observation(6), np.zeros(2), NEVER, NEVER)
    assert rollout.inputs[2].is_first.tolist() == [True, False]  # the row after an end comes from a reset
    assert rollout.rows["action"].tolist() == [[3, 4], [0, 0], [0, 0]]
    assert rollout.rows["logprob"].tolist() == [[-1, -2], [0, 0], [0, 0]]


def test_a_fragment_begins_with_a_copy_of_the_bootstrap_row():
    """A fragment begins with a copy of the previous bootstrap row."""
    before = RolloutWriter(SPACE, first_row(observation(0), 2), 1, 0.0)
    before.write_action(0, PolicyOutput(torch.tensor([3, 4])))
    before.write_step(1, observation(7), np.ones(2), NEVER, np.array([False, True]))
    bootstrap_row = before.bootstrap_row()
    assert set(bootstrap_row) == {"obs/where", "obs/phase", "reward", "terminated", "truncated", "is_first"}
    after = RolloutWriter(SPACE, bootstrap_row, 1, 0.0)
    for key, values in bootstrap_row.items():
        assert np.array_equal(after.rows[key][0], before.rows[key][-1])
        assert not np.shares_memory(values, before.rows[key])
