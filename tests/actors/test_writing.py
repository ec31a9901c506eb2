import numpy as np
import torch
from gymnasium import spaces

from sheeprl.actors.rollout import Writing, first_row
from sheeprl.algos.base import Acted

SPACE = spaces.Dict({"where": spaces.Box(-1.0, 1.0, (2,), np.float32), "phase": spaces.Discrete(9)})
NOBODY = np.zeros(2, np.bool_)


def found(number):
    return {"where": np.full((2, 2), number, np.float32), "phase": np.full(2, number)}


def test_rows_are_seen_as_they_are_written():
    writing = Writing(SPACE, first_row(found(0), 2), 2, progress=0.25)
    assert writing.seen[0].is_first.all() and writing.seen[0].progress == 0.25
    writing.decide(0, Acted(torch.tensor([3, 4]), {"logprob": torch.tensor([-1.0, -2.0])}))
    writing.arrive(1, found(5), np.array([1.0, 2.0]), np.array([True, False]), NOBODY)
    row = writing.seen[1]
    assert row.obs["where"].tolist() == [[5, 5], [5, 5]] and row.obs["phase"].tolist() == [5, 5]
    assert row.reward.tolist() == [1, 2] and not row.is_first.any()
    writing.arrive(2, found(6), np.zeros(2), NOBODY, NOBODY)
    assert writing.seen[2].is_first.tolist() == [True, False]  # the row after an end comes from a reset
    assert writing.rows["action"].tolist() == [[3, 4], [0, 0], [0, 0]]
    assert writing.rows["logprob"].tolist() == [[-1, -2], [0, 0], [0, 0]]


def test_a_fragment_begins_with_a_copy_of_the_tail_before():
    before = Writing(SPACE, first_row(found(0), 2), 1, 0.0)
    before.decide(0, Acted(torch.tensor([3, 4])))
    before.arrive(1, found(7), np.ones(2), NOBODY, np.array([False, True]))
    tail = before.tail()
    assert set(tail) == {"obs/where", "obs/phase", "reward", "terminated", "truncated", "is_first"}
    after = Writing(SPACE, tail, 1, 0.0)
    for key, values in tail.items():
        assert np.array_equal(after.rows[key][0], before.rows[key][-1])
        assert not np.shares_memory(values, before.rows[key])
