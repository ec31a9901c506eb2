"""Batches that contain a fraction of the newest data."""

import numpy as np
import pytest

from sheeprl.buffer import ReplayBuffer, online
from sheeprl.buffer.episodes import Episodes
from sheeprl.buffer.online import Newest
from sheeprl.buffer.samplers import NStep, Rollout, Transitions
from sheeprl.buffer.sequences import Sequences
from tests.helpers.buffer_model import check_frequencies, rows_of


def drawn(buffer, batch_size, n_batches=1):
    """Return the arrival numbers of samples."""
    return buffer.sample(batch_size, n_batches)["index"].numpy()


@pytest.mark.parametrize("sampler", [Transitions(), NStep(2, 0.9)])
def test_newest_samples_are_drawn_first_and_once(sampler):
    """Test the order of new samples over several draws and fragments."""
    buffer = ReplayBuffer(100, sampler, online_fraction=0.5)
    buffer.add(rows_of(range(21)))
    index = drawn(buffer, 4, 3)
    assert index[:, :2].tolist() == [[19, 16], [18, 15], [17, 14]]  # distributed over the batches
    assert drawn(buffer, 4, 2)[:, :2].tolist() == [[13, 11], [12, 10]]  # the next block continues
    buffer.add(rows_of(range(20, 23)))
    assert drawn(buffer, 6)[0, :3].tolist() == [21, 20, 9]  # newer samples precede the remaining ones
    rest = drawn(buffer, 4, 20)
    new = rest[:, :2].T.ravel()
    assert new[:9].tolist() == [8, 7, 6, 5, 4, 3, 2, 1, 0]


def test_rest_of_a_batch_is_uniform():
    """Test the frequencies of the other samples, also after all new samples are drawn."""
    buffer = ReplayBuffer(10, online_fraction=0.25, seed=4)
    buffer.add(rows_of(range(11)))
    index = drawn(buffer, 8, 3000)
    assert index[:5, :2].tolist() == [[9 - number, *index[number, 1:2]] for number in range(5)]
    check_frequencies(np.bincount(index[:, 2:].ravel()), np.full(10, index[:, 2:].size / 10))
    check_frequencies(np.bincount(index[10:, :2].ravel()), np.full(10, index[10:, :2].size / 10))


def test_fraction_of_1_draws_new_samples_only():
    """Test that each new sample is drawn once."""
    buffer = ReplayBuffer(10, online_fraction=1.0)
    buffer.add(rows_of(range(11)))
    assert sorted(drawn(buffer, 5, 2).ravel().tolist()) == list(range(10))


def test_end_rows_are_not_drawn():
    """Test that invalid anchors are skipped."""
    buffer = ReplayBuffer(10, online_fraction=1.0)
    buffer.add(rows_of(range(7), ends="  t  x"))
    assert drawn(buffer, 4).tolist() == [[4, 3, 1, 0]]


def test_evicted_samples_are_not_drawn():
    """Test that uniform samples replace evicted new ones."""
    buffer = ReplayBuffer(6, online_fraction=1.0)
    buffer.add(rows_of(range(7)))
    assert drawn(buffer, 2).tolist() == [[5, 4]]  # 0 to 3 are left
    buffer.add(rows_of(range(6, 11)))  # evicts 0 to 3
    index = drawn(buffer, 6)[0]
    assert index[:4].tolist() == [9, 8, 7, 6] and set(index) <= {4, 5, 6, 7, 8, 9}


def test_take_returns_at_most_the_remaining_samples():
    """Test a `take` of more samples than remain."""
    buffer = ReplayBuffer(6)
    buffer.add(rows_of(range(7)))
    newest = Newest()
    assert newest.take(buffer.storage, buffer.sampler, 2).tolist() == [5, 4]
    buffer.add(rows_of(range(6, 9)))  # evicts 0 and 1
    assert newest.take(buffer.storage, buffer.sampler, 9).tolist() == [1, 0, 3, 2]
    assert newest.take(buffer.storage, buffer.sampler, 9).tolist() == []


def test_new_sequences_share_no_row():
    """Test that new sequences of a stream are disjoint."""
    buffer = ReplayBuffer(100, Sequences(3), online_fraction=1.0)
    for begin in (0, 7, 14):
        buffer.add(rows_of(range(begin, begin + 8), envs=2))
    index = drawn(buffer, 14)[0]  # [3, 14]
    assert len(set(index.ravel().tolist())) == index.size
    names = buffer.storage.rows["obs"][index, 0] % 1000
    assert sorted(names[0].tolist()) == sorted([0, 3, 6, 9, 12, 15, 18] * 2)
    assert names[0].tolist() == sorted(names[0].tolist(), reverse=True)


def test_new_sequences_of_an_episode_share_no_row():
    """Test that each episode gives as many new sequences as fit into it."""
    buffer = ReplayBuffer(100, Sequences(3, crosses=False), online_fraction=1.0)
    buffer.add(rows_of(range(12), ends=" t       t", first="f f       f"))
    index = drawn(buffer, 2)[0]  # [3, 2]
    assert sorted(index[0].tolist()) == [2, 5] and ((index[1:] - index[:-1]) == 1).all()


@pytest.mark.parametrize("crosses", [False, True])
@pytest.mark.parametrize("context", [False, True])
def test_new_sequences_are_valid(crosses, context):
    """Test new sequences with and without context and crossing."""
    buffer = ReplayBuffer(100, Sequences(3, context, crosses), online_fraction=1.0)
    buffer.add(rows_of(range(40), ends="   t    x  t", first="f   f    f  f"))
    rows = buffer.sample(5, 3)
    first = rows["is_first"][:, 1 + context :]
    assert crosses or not first.any()
    assert (rows["obs"][:, -1] - rows["obs"][:, int(context)] == 2).all()


def test_ranges_longer_than_a_scan(monkeypatch):
    """Test that no sample is skipped between two scans."""
    monkeypatch.setattr(online, "SCAN_ROWS", 5)
    buffer = ReplayBuffer(100, online_fraction=1.0)
    buffer.add(rows_of(range(43), ends=" " * 20 + "t" * 12))
    alive = [*range(41, 31, -1), *range(19, -1, -1)]
    assert [int(number) for _ in range(10) for number in drawn(buffer, 3)[0]] == alive


def test_load_restores_the_drawn_samples(tmp_path):
    """Test `load` and `load_state_dict`."""
    buffer = ReplayBuffer(100, online_fraction=0.5)
    buffer.add(rows_of(range(21)))
    drawn(buffer, 8)
    buffer.add(rows_of(range(20, 26)))
    drawn(buffer, 4)
    buffer.save(tmp_path / "save")
    state = buffer.state_dict()
    expected = drawn(buffer, 8, 3).tolist()
    from_disk = ReplayBuffer(100, online_fraction=0.5, seed=9)
    from_state = ReplayBuffer(100, online_fraction=0.5, seed=8)
    from_disk.load(tmp_path / "save")
    from_state.load_state_dict(state)
    assert drawn(from_disk, 8, 3).tolist() == expected == drawn(from_state, 8, 3).tolist()


def test_attached_rows_do_not_count_as_new(tmp_path):
    """Test that only rows added after `attach` are new."""
    buffer = ReplayBuffer(100, online_fraction=1.0, memmap=tmp_path)
    buffer.add(rows_of(range(21)))
    buffer.close()
    buffer = ReplayBuffer.attach(tmp_path, 100, online_fraction=1.0, seed=5)
    buffer.add(rows_of(range(20, 23)))
    assert drawn(buffer, 4)[0, :2].tolist() == [21, 20]
    assert len({tuple(drawn(buffer, 4)[0]) for _ in range(5)}) > 1


@pytest.mark.parametrize("sampler", [Rollout(), Episodes()])
def test_sampler_without_anchors_with_online_fraction_raises(sampler):
    """Test that the combination is refused at construction."""
    with pytest.raises(ValueError, match="draws its own samples"):
        ReplayBuffer(4, sampler, online_fraction=0.5)


def test_setting_a_sampler_without_anchors_with_online_fraction_raises():
    """Test that the setter refuses the combination too."""
    buffer = ReplayBuffer(4, online_fraction=0.5)
    with pytest.raises(ValueError, match="draws its own samples"):
        buffer.sampler = Rollout()


@pytest.mark.parametrize("fraction", [-0.1, 1.5])
def test_invalid_fraction_raises(fraction):
    """Test fractions below 0 and above 1."""
    with pytest.raises(ValueError, match="must be from 0 to 1"):
        ReplayBuffer(4, online_fraction=fraction)
