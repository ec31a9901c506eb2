"""Prioritized sampling: frequencies, importance weights and priority updates."""

import numpy as np
import pytest
import torch

from sheeprl.buffer import ReplayBuffer
from sheeprl.buffer.episodes import Episodes
from sheeprl.buffer.fragments import RefusedFragmentError
from sheeprl.buffer.priorities import MIN_PRIORITY, Prioritized
from sheeprl.buffer.samplers import NStep, Rollout, Transitions
from sheeprl.buffer.sequences import Sequences
from sheeprl.buffer.tensordicts import flatten
from tests.helpers.buffer_faults import add_and_die
from tests.helpers.buffer_model import check_frequencies, rows_of


def filled(alpha=0.6, rows=8, capacity=10, sampler=None, **settings):
    """Return a prioritized buffer with some rows."""
    buffer = ReplayBuffer(capacity, sampler or Transitions(), seed=1, prioritized=Prioritized(alpha, **settings))
    buffer.add(rows_of(range(rows + 1)))
    return buffer


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("sampler", [Transitions(), NStep(3, 0.9)])
def test_draws_are_proportional_to_priority_to_the_power_of_alpha(alpha, sampler):
    """Test frequencies and total priority for several exponents."""
    buffer = filled(alpha, sampler=sampler)
    priorities = np.array([0.5, 1, 2, 4, 8, 0.25, 3, 1])
    assert buffer.update_priorities(np.arange(8), priorities) == 8
    index = buffer.sample(8, 2500)["index"].numpy()
    weights = priorities**alpha
    assert buffer.total_priority == pytest.approx(weights.sum())
    # Stratified draws deviate less than independent ones.
    check_frequencies(np.bincount(index.ravel(), minlength=8), index.size * weights / weights.sum())


def test_draws_are_stratified():
    """Test that equal priorities give one sample per slot."""
    buffer = filled(1.0)
    buffer.update_priorities(np.arange(8), np.ones(8))
    index = buffer.sample(8, 50)["index"]
    assert index.tolist() == [list(range(8))] * 50  # one per equal share


def test_sequences_are_proportional_if_most_of_the_total_priority_is_invalid():
    """Test frequencies if most draws are repeated."""
    buffer = filled(1.0, rows=6, sampler=Sequences(3))
    buffer.update_priorities(np.arange(6), np.array([100.0, 100, 1, 2, 3, 4]))  # 0 and 1 end no sequence of 3
    ends = buffer.sample(4, 3000)["index"][:, -1].numpy()
    check_frequencies(np.bincount(ends.ravel() - 2), ends.size * np.array([1, 2, 3, 4]) / 10)


def test_sequences_that_end_with_an_episode_have_priorities():
    """Test that end rows are anchors of sequences."""
    buffer = ReplayBuffer(10, Sequences(2), prioritized=Prioritized(1.0))
    buffer.add(rows_of([0, 1, 2], ends=" t"))
    sample = buffer.sample(1, 20)
    assert set(sample["obs"][:, :, 0, 0].flatten().tolist()) == {0, 1}
    assert (sample["importance"] == 1).all()
    assert buffer.update_priorities(sample["index"][:, -1], np.full((20, 1), 3.0)) == 20
    assert buffer.total_priority == 4.0  # includes the first row
    assert buffer.priorities.highest == 3.0


def test_end_rows_have_no_priority_for_transitions():
    """Test that an update of an end row is ignored."""
    buffer = ReplayBuffer(10, prioritized=Prioritized(1.0))
    buffer.add(rows_of([0, 1, 2, 3], ends=" t"))
    assert buffer.total_priority == 2.0
    buffer.update_priorities(np.array([1]), np.array([9.0]))
    assert buffer.total_priority == 2.0 and buffer.priorities.highest == 1.0


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0, 7.0, -1.0])
def test_importance_matches_the_paper(progress):
    """Test w_i = (N P(i))^-beta / max_j w_j (Schaul et al. 2016, section 3.4)."""
    buffer = filled(0.7, beta=0.4, beta_end=0.8)
    priorities = np.array([0.5, 1, 2, 4, 8, 0.25, 3, 1])
    buffer.update_priorities(np.arange(8), priorities)
    sample = buffer.sample(5, 20, progress=progress)
    assert sample["importance"].dtype == torch.float32 and sample["importance"].shape == (20, 5)
    beta = 0.4 + 0.4 * min(1, max(0, progress))
    probability = priorities**0.7 / (priorities**0.7).sum()
    weights = (8 * probability[sample["index"].numpy()]) ** -beta
    assert np.allclose(sample["importance"].numpy(), weights / weights.max(axis=1, keepdims=True), rtol=1e-5)


def test_each_sequence_has_one_importance():
    """Test the shapes of `importance` from `draw` and `sample`."""
    buffer = filled(1.0, sampler=Sequences(3), beta=1.0)
    buffer.update_priorities(np.arange(8), np.arange(1.0, 9))
    rows = buffer.draw(4, 2)
    assert rows["index"].shape == (2, 3, 4)
    assert np.allclose(rows["importance"], 1 / (rows["index"][:, -1] + 1.0))
    sample = buffer.sample(4, 2)  # repeated for each row
    assert sample.batch_size == (2, 3, 4)
    expected = 1 / (sample["index"][:, -1:] + 1.0)
    assert torch.allclose(sample["importance"], (expected / expected.amax(-1, keepdim=True)).expand(2, 3, 4))


def test_priority_of_zero_is_still_drawn():
    """Test the minimum priority."""
    buffer = filled(0.5)
    buffer.update_priorities(np.arange(8), np.zeros(8))
    assert buffer.total_priority == pytest.approx(8 * MIN_PRIORITY**0.5)
    assert set(buffer.sample(8, 1)["index"].flatten().tolist()) == set(range(8))


def test_new_rows_get_the_highest_priority_so_far():
    """Test that a lowered priority still counts as the highest."""
    buffer = filled(0.5, rows=4)
    buffer.update_priorities(np.array([1, 2]), np.array([16.0, 9.0]))
    buffer.update_priorities(np.array([1]), np.array([1.0]))  # lowers the highest priority again
    buffer.add(rows_of([4, 5, 6]))
    assert buffer.priorities.tree.leaves[:6].tolist() == [1, 1, 3, 1, 4, 4]


def test_last_of_two_priorities_is_used():
    """Test an update with a repeated index."""
    buffer = filled(1.0)
    buffer.update_priorities(np.array([3, 5, 3]), np.array([2.0, 4.0, 7.0]))
    assert buffer.priorities.tree.leaves[[3, 5]].tolist() == [7.0, 4.0]


def test_priorities_of_evicted_rows_are_counted():
    """Test that updates of evicted rows change nothing."""
    buffer = filled(1.0, rows=4, capacity=4)
    index = buffer.sample(4, 1)["index"]
    buffer.add(rows_of([4, 5, 6]))  # evicts rows 0 and 1
    assert buffer.update_priorities(index, np.full((1, 4), 50.0)) == 2
    assert buffer.counts.late_priorities == 2
    assert buffer.priorities.tree.leaves.tolist() == [1, 1, 50, 50]  # rows 4, 5, 2, 3
    assert buffer.update_priorities(np.array([99, -1]), np.array([1.0, 1.0])) == 0  # never stored
    assert buffer.counts.late_priorities == 4


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_invalid_priority_raises(bad):
    """Test that an invalid update leaves all priorities unchanged."""
    buffer = filled(1.0)
    with pytest.raises(ValueError, match="negative or not finite"):
        buffer.update_priorities(np.array([0, 1]), np.array([5.0, bad]))
    assert buffer.total_priority == 8.0


def test_wrong_number_of_priorities_raises():
    """Test that sequences take one priority each."""
    buffer = filled(1.0, sampler=Sequences(2))
    sample = buffer.sample(3, 1)
    with pytest.raises(ValueError, match="3 priorities for 6 rows"):
        buffer.update_priorities(sample["index"], np.ones((1, 3)))
    assert buffer.update_priorities(sample["index"][:, -1], torch.ones(1, 3)) == 3


def test_update_of_a_uniform_buffer_raises():
    """Test that uniform and empty buffers have no priorities."""
    buffer = ReplayBuffer(4)
    with pytest.raises(ValueError, match="draws uniformly"):
        buffer.update_priorities(np.array([0]), np.array([1.0]))
    assert buffer.total_priority == 0 and ReplayBuffer(4, prioritized=Prioritized()).total_priority == 0


@pytest.mark.parametrize("setting", ["alpha", "beta", "beta_end"])
@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_invalid_exponent_raises(setting, value):
    """Test exponents below 0 and above 1."""
    with pytest.raises(ValueError, match=f"{setting}={value}"):
        Prioritized(**{setting: value})


@pytest.mark.parametrize("sampler", [Rollout(), Episodes()])
def test_prioritized_sampler_without_anchors_raises(sampler):
    """Test that the combination is refused at construction."""
    with pytest.raises(ValueError, match="draws its own samples"):
        ReplayBuffer(4, sampler, prioritized=Prioritized())


@pytest.mark.parametrize("sampler", [Rollout(), Sequences(2)])
def test_setting_a_sampler_with_other_anchors_raises(sampler):
    """Test that only samplers with the same anchors share priorities."""
    buffer = filled()
    with pytest.raises(ValueError, match="the priorities belong to Transitions"):
        buffer.sampler = sampler
    buffer.sampler = NStep(2, 0.9)
    assert (buffer.sample(2)["discount"] > 0.8).all()


def test_few_valid_sequences_in_the_total_priority():
    """Test the draw from the list of all valid slots, which follows repeated invalid draws."""
    buffer = ReplayBuffer(600, Sequences(4), seed=3, prioritized=Prioritized(1.0))
    for player in range(150):
        buffer.add(rows_of([0, 1, 2, 3]), (player, 0))  # too short for a sequence
    buffer.add(rows_of([10, 11, 12, 13, 14, 15]), (999, 0))
    last = buffer.storage.total - 1
    buffer.update_priorities(np.array([last - 1, last]), np.array([1.0, 3.0]))
    ends = buffer.sample(2, 2000)["index"][:, -1].numpy().ravel()
    check_frequencies([(ends == last - 1).sum(), (ends == last).sum()], [1000, 3000])


def test_priorities_in_a_gap_do_not_count_as_highest(tmp_path):
    """Test the highest priority after a kill."""
    buffer = ReplayBuffer(4, prioritized=Prioritized(1.0), memmap=tmp_path)
    buffer.add(rows_of(range(5)))
    buffer.update_priorities(np.arange(4), np.array([8.0, 8, 0.5, 0.25]))
    add_and_die(buffer, flatten(rows_of([4, 5, 6])), (0, 0), 1, "rows")
    buffer = ReplayBuffer.attach(tmp_path, 4, prioritized=Prioritized(1.0))
    assert buffer.priorities.tree.leaves.tolist() == [0, 0, 0.5, 0.25] and buffer.priorities.highest == 0.5


def test_a_fragment_may_bring_its_priorities():
    """The key `priority` sets the priorities of new rows, isn't stored, and doesn't change other rows."""
    buffer = filled(1.0, capacity=20)
    buffer.update_priorities(np.arange(8), np.full(8, 2.0))
    fragment = rows_of(range(8, 12), ends="  t ")
    fragment["priority"] = torch.tensor([[0.5], [3.0], [9.0], [0.0]])
    buffer.add(fragment)
    assert "priority" not in buffer.storage.rows
    # The end row can't be drawn, so its priority doesn't count.
    assert buffer.priorities.tree.leaves[:11].tolist() == [2.0] * 8 + [0.5, 3.0, 0.0]
    buffer.add(rows_of(range(11, 13)))
    assert buffer.priorities.tree.leaves[11] == 3.0  # a row without a priority gets the highest one


@pytest.mark.parametrize(("values", "reason"), [([[1.0], [-1.0], [0.0]], "priority is -1"), ([[1.0]], "has shape")])
def test_broken_initial_priorities_are_refused(values, reason):
    """Priorities of another shape, or that are negative or not finite, are refused, and nothing is stored."""
    buffer = filled(1.0, capacity=20)
    fragment = flatten(rows_of(range(8, 11)))
    with pytest.raises(RefusedFragmentError, match=reason):
        buffer.add_rows({**fragment, "priority": np.array(values, np.float32)})
    assert len(buffer) == 8 and buffer.counts.refused == 1


def test_a_uniform_buffer_refuses_priorities():
    """A buffer without priorities names the key."""
    fragment = flatten(rows_of(range(3)))
    with pytest.raises(RefusedFragmentError, match="priority is reserved"):
        ReplayBuffer(10).add_rows({**fragment, "priority": np.zeros((3, 1), np.float32)})
