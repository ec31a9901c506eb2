"""A part of each batch that is the newest data."""

import numpy as np
import pytest

from sheeprl.buffer import ReplayBuffer
from sheeprl.buffer import online as newest
from sheeprl.buffer.episodes import Episodes
from sheeprl.buffer.online import Newest
from sheeprl.buffer.samplers import NStep, Rollout, Transitions
from sheeprl.buffer.sequences import Sequences
from tests.helpers.buffer_model import check_frequencies, rows_of


def drawn(buffer, batch_size, n_batches=1):
    return buffer.sample(batch_size, n_batches)["index"].numpy()


@pytest.mark.parametrize("sampler", [Transitions(), NStep(2, 0.9)])
def test_the_newest_come_first_and_once(sampler):
    buffer = ReplayBuffer(100, sampler, online_fraction=0.5)
    buffer.add(rows_of(range(21)))
    index = drawn(buffer, 4, 3)
    assert index[:, :2].tolist() == [[19, 16], [18, 15], [17, 14]]  # spread over the batches
    assert drawn(buffer, 4, 2)[:, :2].tolist() == [[13, 11], [12, 10]]  # it goes on in the next block
    buffer.add(rows_of(range(20, 23)))
    assert drawn(buffer, 6)[0, :3].tolist() == [21, 20, 9]  # what is newer comes before what was left
    rest = drawn(buffer, 4, 20)
    online = rest[:, :2].T.ravel()
    assert online[:9].tolist() == [8, 7, 6, 5, 4, 3, 2, 1, 0]


def test_the_rest_is_uniform():
    buffer = ReplayBuffer(10, online_fraction=0.25, seed=4)
    buffer.add(rows_of(range(11)))
    index = drawn(buffer, 8, 3000)
    assert index[:5, :2].tolist() == [[9 - number, *index[number, 1:2]] for number in range(5)]
    check_frequencies(np.bincount(index[:, 2:].ravel()), np.full(10, index[:, 2:].size / 10))
    check_frequencies(np.bincount(index[10:, :2].ravel()), np.full(10, index[10:, :2].size / 10))


def test_with_a_fraction_of_1_all_is_new_while_there_is_enough():
    buffer = ReplayBuffer(10, online_fraction=1.0)
    buffer.add(rows_of(range(11)))
    assert sorted(drawn(buffer, 5, 2).ravel().tolist()) == list(range(10))


def test_ends_of_episodes_are_no_samples():
    buffer = ReplayBuffer(10, online_fraction=1.0)
    buffer.add(rows_of(range(7), ends="  t  x"))
    assert drawn(buffer, 4).tolist() == [[4, 3, 1, 0]]


def test_what_was_overwritten_is_not_new():
    buffer = ReplayBuffer(6, online_fraction=1.0)
    buffer.add(rows_of(range(7)))
    assert drawn(buffer, 2).tolist() == [[5, 4]]  # 0 to 3 are left
    buffer.add(rows_of(range(6, 11)))  # 0 to 3 are gone
    index = drawn(buffer, 6)[0]
    assert index[:4].tolist() == [9, 8, 7, 6] and set(index) <= {4, 5, 6, 7, 8, 9}


def test_no_more_are_taken_than_are_there():
    buffer = ReplayBuffer(6)
    buffer.add(rows_of(range(7)))
    newest = Newest()
    assert newest.take(buffer.storage, buffer.sampler, 2).tolist() == [5, 4]
    buffer.add(rows_of(range(6, 9)))  # takes the places of 0 and 1
    assert newest.take(buffer.storage, buffer.sampler, 9).tolist() == [1, 0, 3, 2]
    assert newest.take(buffer.storage, buffer.sampler, 9).tolist() == []


def test_new_sequences_have_no_row_in_common():
    buffer = ReplayBuffer(100, Sequences(3), online_fraction=1.0)
    for begin in (0, 7, 14):
        buffer.add(rows_of(range(begin, begin + 8), envs=2))
    index = drawn(buffer, 14)[0]  # [3, 14]
    assert len(set(index.ravel().tolist())) == index.size
    names = buffer.storage.rows["obs"][index, 0] % 1000
    assert sorted(names[0].tolist()) == sorted([0, 3, 6, 9, 12, 15, 18] * 2)
    assert names[0].tolist() == sorted(names[0].tolist(), reverse=True)


@pytest.mark.parametrize("crosses", [False, True])
@pytest.mark.parametrize("context", [False, True])
def test_new_sequences_are_legal_ones(crosses, context):
    buffer = ReplayBuffer(100, Sequences(3, context, crosses), online_fraction=1.0)
    buffer.add(rows_of(range(40), ends="   t    x  t", first="f   f    f  f"))
    rows = buffer.sample(5, 3)
    first = rows["is_first"][:, 1 + context :]
    assert crosses or not first.any()
    assert (rows["obs"][:, -1] - rows["obs"][:, int(context)] == 2).all()


def test_what_gathers_is_looked_at_piece_by_piece(monkeypatch):
    monkeypatch.setattr(newest, "LOOK", 5)
    buffer = ReplayBuffer(100, online_fraction=1.0)
    buffer.add(rows_of(range(43), ends=" " * 20 + "t" * 12))
    alive = [*range(41, 31, -1), *range(19, -1, -1)]
    assert [int(number) for _ in range(10) for number in drawn(buffer, 3)[0]] == alive


def test_it_goes_on_after_a_load(tmp_path):
    buffer = ReplayBuffer(100, online_fraction=0.5)
    buffer.add(rows_of(range(21)))
    drawn(buffer, 8)
    buffer.add(rows_of(range(20, 26)))
    drawn(buffer, 4)
    buffer.save(tmp_path / "save")
    state = buffer.state_dict()
    expected = drawn(buffer, 8, 3).tolist()
    loaded, taken = ReplayBuffer(100, online_fraction=0.5, seed=9), ReplayBuffer(100, online_fraction=0.5, seed=8)
    loaded.load(tmp_path / "save")
    taken.load_state_dict(state)
    assert drawn(loaded, 8, 3).tolist() == expected == drawn(taken, 8, 3).tolist()


def test_after_a_kill_only_what_comes_is_new(tmp_path):
    buffer = ReplayBuffer(100, online_fraction=1.0, memmap=tmp_path)
    buffer.add(rows_of(range(21)))
    buffer.close()
    buffer = ReplayBuffer.attach(tmp_path, 100, online_fraction=1.0, seed=5)
    buffer.add(rows_of(range(20, 23)))
    assert drawn(buffer, 4)[0, :2].tolist() == [21, 20]
    assert len({tuple(drawn(buffer, 4)[0]) for _ in range(5)}) > 1


@pytest.mark.parametrize("sampler", [Rollout(), Episodes()])
def test_samplers_that_choose_by_themselves_have_no_newest(sampler):
    with pytest.raises(ValueError, match="chooses by itself"):
        ReplayBuffer(4, sampler, online_fraction=0.5)


def test_newest_goes_with_no_sampler_that_chooses_by_itself_later_either():
    buffer = ReplayBuffer(4, online_fraction=0.5)
    with pytest.raises(ValueError, match="chooses by itself"):
        buffer.sampler = Rollout()


@pytest.mark.parametrize("fraction", [-0.1, 1.5])
def test_a_fraction_is_from_0_to_1(fraction):
    with pytest.raises(ValueError, match="must be from 0 to 1"):
        ReplayBuffer(4, online_fraction=fraction)
