"""Samples by hand: returns over several steps, sequences inside episodes, whole episodes and parts of them."""

import numpy as np
import pytest

from sheeprl.buffer import ReplayBuffer
from sheeprl.buffer.episodes import Episodes
from sheeprl.buffer.samplers import NStep
from sheeprl.buffer.sequences import Sequences
from tests.helpers.buffer_model import check_frequencies, rows_of


def returns(buffer):
    """By the row's name: return, discount, the next row's name, its flags."""
    sample = buffer.sample(1, 2000).reshape(-1)
    return {
        int(row["obs"]): (
            pytest.approx(float(row["reward"])),
            pytest.approx(float(row["discount"])),
            int(row["next_obs"]),
            bool(row["terminated"]),
            bool(row["truncated"]),
        )
        for row in sample.unbind(0)
    }


def n_step(n, gamma, *fragments):
    buffer = ReplayBuffer(50, NStep(n, gamma))
    for fragment in fragments:
        buffer.add(fragment)
    return returns(buffer)


def test_three_steps_by_hand():
    """The reward on arriving at row k is k / 10."""
    found = n_step(3, 0.5, rows_of([0, 1, 2, 3, 4], first="f"))
    assert found == {
        0: (0.1 + 0.5 * 0.2 + 0.25 * 0.3, 0.125, 3, False, False),
        1: (0.2 + 0.5 * 0.3 + 0.25 * 0.4, 0.125, 4, False, False),
        2: (0.3 + 0.5 * 0.4, 0.25, 4, False, False),  # nothing more has been played yet
        3: (0.4, 0.5, 4, False, False),
    }


def test_what_is_played_later_makes_returns_longer():
    found = n_step(3, 0.5, rows_of([0, 1, 2], first="f"), rows_of([2, 3, 4]))
    assert found[1] == (0.2 + 0.5 * 0.3 + 0.25 * 0.4, 0.125, 4, False, False)
    assert found[2] == (0.3 + 0.5 * 0.4, 0.25, 4, False, False)


def test_a_return_stops_at_a_terminated_end_and_bootstraps_from_nothing():
    found = n_step(3, 0.5, rows_of([0, 1, 2, 10, 11, 12, 13], ends="  t", first="f  f"))
    assert set(found) == {0, 1, 10, 11, 12}
    assert found[0] == (0.1 + 0.5 * 0.2, 0.0, 2, True, False)
    assert found[1] == (0.2, 0.0, 2, True, False)
    assert found[10] == (1.1 + 0.5 * 1.2 + 0.25 * 1.3, 0.125, 13, False, False)


def test_a_return_bootstraps_from_a_truncated_end():
    found = n_step(3, 0.5, rows_of([0, 1, 2, 10, 11], ends="  x", first="f  f"))
    assert found[0] == (0.1 + 0.5 * 0.2, 0.25, 2, False, True)
    assert found[1] == (0.2, 0.5, 2, False, True)


def test_an_end_that_is_a_tail():
    found = n_step(2, 0.5, rows_of([0, 1, 2], ends="  t"))
    assert found[0] == (0.1 + 0.5 * 0.2, 0.0, 2, True, False)
    assert found[1] == (0.2, 0.0, 2, True, False)


def test_returns_do_not_run_into_another_stream():
    buffer = ReplayBuffer(50, NStep(4, 1.0))
    buffer.add(rows_of([0, 1, 2]), (0, 0))
    buffer.add(rows_of([50, 51]), (1, 0))
    buffer.add(rows_of([60, 61]), (0, 1))
    buffer.add(rows_of([70, 71]), (1, 0), 5)  # after a gap
    found = returns(buffer)
    assert {name: row[2] for name, row in found.items()} == {0: 2, 1: 2, 50: 51, 60: 61, 70: 71}


def test_one_step_is_a_transition_with_a_discount():
    found = n_step(1, 0.9, rows_of([0, 1, 2, 3], ends="  t", first="f  f"))
    assert found == {0: (0.1, 0.9, 1, False, False), 1: (0.2, 0.0, 2, True, False)}


@pytest.mark.parametrize(("n", "gamma"), [(0, 0.9), (1, -0.1), (1, 1.1)])
def test_settings_of_n_step(n, gamma):
    with pytest.raises(ValueError, match=f"n={n}, gamma={gamma}"):
        NStep(n, gamma)


# -------------------------------------------------------------------------------------------------- sequences


def columns(buffer, draws=2000):
    """Each drawn column of names, and how often it came."""
    names = buffer.sample(1, draws)["obs"][:, :, 0, 0].numpy()
    found, counts = np.unique(names, axis=0, return_counts=True)
    return dict(zip(map(tuple, found.astype(int).tolist()), counts.tolist(), strict=True))


def test_sequences_inside_episodes():
    buffer = ReplayBuffer(50, Sequences(2, crosses=False))
    buffer.add(rows_of([0, 1, 2, 10, 20], ends="  tt", first="f  ff"))
    buffer.add(rows_of([20, 21, 22], first="f"))
    assert set(columns(buffer)) == {(0, 1), (1, 2), (20, 21)}
    assert buffer.available == 3


def test_context_may_be_of_the_episode_before():
    buffer = ReplayBuffer(50, Sequences(2, context=True, crosses=False))
    buffer.add(rows_of([0, 1, 10, 11, 12], ends=" t", first="f f"))
    assert set(columns(buffer)) == {(0, 0, 1), (1, 10, 11)}
    assert buffer.available == 2


def test_sequences_inside_an_episode_whose_beginning_is_gone():
    buffer = ReplayBuffer(4, Sequences(3, crosses=False))
    buffer.add(rows_of([0, 1, 2, 3, 4], first="f"))
    buffer.add(rows_of([4, 5, 6]))
    assert set(columns(buffer)) == {(2, 3, 4), (3, 4, 5)}


@pytest.mark.parametrize("sampler", [Sequences, Episodes])
def test_a_length_is_at_least_1(sampler):
    with pytest.raises(ValueError, match="length=0"):
        sampler(0)


# --------------------------------------------------------------------------------------------------- episodes


def test_whole_episodes_are_filled_up():
    buffer = ReplayBuffer(50, Episodes())
    buffer.add(rows_of([1, 2, 3, 10, 11, 20], ends="  t x", first="f  f f"))
    sample = buffer.sample(2, 30)
    assert sample.batch_size == (30, 3, 2)
    found = {
        tuple(zip(names, mask, index, strict=True))
        for names, mask, index in zip(
            sample["obs"][..., 0].transpose(1, 2).reshape(-1, 3).tolist(),
            sample["mask"].transpose(1, 2).reshape(-1, 3).tolist(),
            sample["index"].transpose(1, 2).reshape(-1, 3).tolist(),
            strict=True,
        )
    }
    assert found == {
        ((1, True, 0), (2, True, 1), (3, True, 2)),
        ((10, True, 3), (11, True, 4), (0, False, -1)),
    }
    assert buffer.available == 2


def test_an_episode_runs_over_fragments():
    buffer = ReplayBuffer(50, Episodes())
    for fragment in (rows_of([0, 1, 2], first="f"), rows_of([2, 3, 4]), rows_of([4, 5, 10], ends=" x", first="  f")):
        assert buffer.available == 0
        buffer.add(fragment)
    assert set(columns(buffer, 20)) == {(0, 1, 2, 3, 4, 5)}


def test_an_episode_without_its_beginning_is_none():
    buffer = ReplayBuffer(6, Episodes())
    buffer.add(rows_of([1, 2, 10, 11], ends=" t", first="  f"))  # it had begun before
    assert buffer.available == 0
    buffer.add(rows_of([11, 12, 20], ends=" t", first="  f"))
    assert set(columns(buffer, 20)) == {(10, 11, 12)}
    buffer.add(rows_of([20, 21, 22, 23], first="f"))  # overwrites 1 and 2, and no more than these
    assert buffer.available == 1 or len(buffer) == 6
    buffer.add(rows_of([23, 24], ends="t"))
    assert set(columns(buffer, 20)) == {(20, 21, 22, 23)}


def test_episodes_do_not_run_over_gaps():
    buffer = ReplayBuffer(50, Episodes())
    buffer.add(rows_of([0, 1, 2], first="f"))
    buffer.add(rows_of([5, 6, 7], ends=" t"), sequence=4)
    buffer.add(rows_of([9, 10], ends="t"), (0, 1))
    assert buffer.available == 0


def test_episodes_come_uniformly_and_then_their_parts():
    buffer = ReplayBuffer(50, Episodes(2), seed=2)
    buffer.add(rows_of([0, 1, 10, 11, 12, 13, 20], ends=" t   t ", first="f f   f"))
    assert buffer.available == 4
    found = columns(buffer, 6000)
    assert list(found) == [(0, 1), (10, 11), (11, 12), (12, 13)]
    check_frequencies(list(found.values()), [3000, 1000, 1000, 1000])


def test_ends_come_more_often_if_they_should():
    buffer = ReplayBuffer(50, Episodes(3, prioritize_ends=True), seed=2)
    buffer.add(rows_of([0, 1, 2, 3, 4, 20], ends="    t", first="f    f"))
    found = columns(buffer, 5000)
    assert list(found) == [(0, 1, 2), (1, 2, 3), (2, 3, 4)]
    check_frequencies(list(found.values()), [1000, 1000, 3000])  # of 5 beginnings, 3 reach the end or past it


def test_parts_of_one_row_with_ends():
    buffer = ReplayBuffer(50, Episodes(1, prioritize_ends=True))
    buffer.add(rows_of([0, 1, 2], ends=" t", first="f f"))
    assert set(columns(buffer)) == {(0,), (1,)}


def test_ends_of_whole_episodes_need_no_priority():
    with pytest.raises(ValueError, match="a whole episode has its end"):
        Episodes(prioritize_ends=True)


def test_unfinished_episodes_of_players_that_are_gone_are_forgotten():
    buffer = ReplayBuffer(1200, Episodes())
    for life in range(1000):
        buffer.add(rows_of([0, 1, 2, 3, 4, 5, 10, 11], ends="     t", first="f     f"), (0, life))
    (index,) = buffer.storage.extensions
    assert len(index._open) < 500
    assert buffer.available == 1200 // 7


def test_what_must_be_kept_from_the_beginning_is_told():
    buffer = ReplayBuffer(10)
    for sampler, name in ((Episodes(), "EpisodeIndex"), (Sequences(2, crosses=False), "Ages")):
        with pytest.raises(ValueError, match=f"{name} must be kept from the beginning"):
            buffer.sampler = sampler
