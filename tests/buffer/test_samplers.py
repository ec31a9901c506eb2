"""Samples of explicit fragments: n-step returns, sequences inside episodes, complete episodes and parts of them."""

import numpy as np
import pytest

from sheeprl.buffer import ReplayBuffer
from sheeprl.buffer.episodes import Episodes
from sheeprl.buffer.samplers import NStep
from sheeprl.buffer.sequences import Sequences
from tests.helpers.buffer_model import check_frequencies, rows_of


def returns(buffer):
    """Return for each row by name: return, discount, name and flags of the next row."""
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
    """Return the n-step returns of a buffer of these fragments."""
    buffer = ReplayBuffer(50, NStep(n, gamma))
    for fragment in fragments:
        buffer.add(fragment)
    return returns(buffer)


def test_three_step_returns():
    """Test against hand-computed returns. The reward on arrival at row k is k / 10."""
    found = n_step(3, 0.5, rows_of([0, 1, 2, 3, 4], first="f"))
    assert found == {
        0: (0.1 + 0.5 * 0.2 + 0.25 * 0.3, 0.125, 3, False, False),
        1: (0.2 + 0.5 * 0.3 + 0.25 * 0.4, 0.125, 4, False, False),
        2: (0.3 + 0.5 * 0.4, 0.25, 4, False, False),  # no later row is stored yet
        3: (0.4, 0.5, 4, False, False),
    }


def test_next_fragment_extends_returns():
    """Test that returns at the end of a fragment grow with the next one."""
    found = n_step(3, 0.5, rows_of([0, 1, 2], first="f"), rows_of([2, 3, 4]))
    assert found[1] == (0.2 + 0.5 * 0.3 + 0.25 * 0.4, 0.125, 4, False, False)
    assert found[2] == (0.3 + 0.5 * 0.4, 0.25, 4, False, False)


def test_terminated_end_stops_a_return_without_bootstrap():
    """Test that the discount is 0."""
    found = n_step(3, 0.5, rows_of([0, 1, 2, 10, 11, 12, 13], ends="  t", first="f  f"))
    assert set(found) == {0, 1, 10, 11, 12}
    assert found[0] == (0.1 + 0.5 * 0.2, 0.0, 2, True, False)
    assert found[1] == (0.2, 0.0, 2, True, False)
    assert found[10] == (1.1 + 0.5 * 1.2 + 0.25 * 1.3, 0.125, 13, False, False)


def test_truncated_end_is_bootstrapped():
    """Test that the discount is not 0."""
    found = n_step(3, 0.5, rows_of([0, 1, 2, 10, 11], ends="  x", first="f  f"))
    assert found[0] == (0.1 + 0.5 * 0.2, 0.25, 2, False, True)
    assert found[1] == (0.2, 0.5, 2, False, True)


def test_bootstrap_row_that_is_an_end():
    """Test an episode that ends with the fragment."""
    found = n_step(2, 0.5, rows_of([0, 1, 2], ends="  t"))
    assert found[0] == (0.1 + 0.5 * 0.2, 0.0, 2, True, False)
    assert found[1] == (0.2, 0.0, 2, True, False)


def test_returns_stay_inside_a_stream():
    """Test other players, incarnations and streams after lost fragments."""
    buffer = ReplayBuffer(50, NStep(4, 1.0))
    buffer.add(rows_of([0, 1, 2]), (0, 0))
    buffer.add(rows_of([50, 51]), (1, 0))
    buffer.add(rows_of([60, 61]), (0, 1))
    buffer.add(rows_of([70, 71]), (1, 0), 5)  # after a gap
    found = returns(buffer)
    assert {name: row[2] for name, row in found.items()} == {0: 2, 1: 2, 50: 51, 60: 61, 70: 71}


def test_one_step_return_is_a_transition_with_a_discount():
    """Test n = 1."""
    found = n_step(1, 0.9, rows_of([0, 1, 2, 3], ends="  t", first="f  f"))
    assert found == {0: (0.1, 0.9, 1, False, False), 1: (0.2, 0.0, 2, True, False)}


@pytest.mark.parametrize(("n", "gamma"), [(0, 0.9), (1, -0.1), (1, 1.1)])
def test_invalid_settings_of_n_step_raise(n, gamma):
    """Test that the error names both arguments."""
    with pytest.raises(ValueError, match=f"n={n}, gamma={gamma}"):
        NStep(n, gamma)


# -------------------------------------------------------------------------------------------------- sequences


def columns(buffer, draws=2000):
    """Return the count of each drawn column of names."""
    names = buffer.sample(1, draws)["obs"][:, :, 0, 0].numpy()
    found, counts = np.unique(names, axis=0, return_counts=True)
    return dict(zip(map(tuple, found.astype(int).tolist()), counts.tolist(), strict=True))


def test_sequences_inside_episodes():
    """Test that no sequence crosses the end of an episode."""
    buffer = ReplayBuffer(50, Sequences(2, crosses=False))
    buffer.add(rows_of([0, 1, 2, 10, 20], ends="  tt", first="f  ff"))
    buffer.add(rows_of([20, 21, 22], first="f"))
    assert set(columns(buffer)) == {(0, 1), (1, 2), (20, 21)}
    assert buffer.available == 3


def test_context_row_may_belong_to_the_previous_episode():
    """Test context rows of sequences inside episodes."""
    buffer = ReplayBuffer(50, Sequences(2, context=True, crosses=False))
    buffer.add(rows_of([0, 1, 10, 11, 12], ends=" t", first="f f"))
    assert set(columns(buffer)) == {(0, 0, 1), (1, 10, 11)}
    assert buffer.available == 2


def test_sequences_inside_an_episode_without_its_first_row():
    """Test an episode whose first rows are evicted."""
    buffer = ReplayBuffer(4, Sequences(3, crosses=False))
    buffer.add(rows_of([0, 1, 2, 3, 4], first="f"))
    buffer.add(rows_of([4, 5, 6]))
    assert set(columns(buffer)) == {(2, 3, 4), (3, 4, 5)}


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("crosses", [False, True])
def test_least_rows_serve_a_sample_also_after_evictions(context, crosses):
    """A buffer of that many rows always has a sequence once it is full; one row less isn't enough."""
    sampler = Sequences(3, context=context, crosses=crosses)
    for missing in (0, 1):
        buffer = ReplayBuffer(sampler.least_rows - missing, sampler)
        found = []
        for begin in range(0, 20, 2):
            buffer.add(rows_of([begin, begin + 1, begin + 2], first="f" if not begin else ""))
            found.append(buffer.available)
        assert (found[-5:] == [1] * 5) == (not missing)


@pytest.mark.parametrize("sampler", [Sequences, Episodes])
def test_length_of_0_raises(sampler):
    """Test the error at construction."""
    with pytest.raises(ValueError, match="length=0"):
        sampler(0)


# --------------------------------------------------------------------------------------------------- episodes


def test_complete_episodes_are_padded():
    """Test values, mask and index of the padding."""
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


def test_episode_across_fragments():
    """Test that it is available once it ends."""
    buffer = ReplayBuffer(50, Episodes())
    for fragment in (rows_of([0, 1, 2], first="f"), rows_of([2, 3, 4]), rows_of([4, 5, 10], ends=" x", first="  f")):
        assert buffer.available == 0
        buffer.add(fragment)
    assert set(columns(buffer, 20)) == {(0, 1, 2, 3, 4, 5)}


def test_episode_without_its_first_row_is_not_complete():
    """Test first rows that are missing or evicted."""
    buffer = ReplayBuffer(6, Episodes())
    buffer.add(rows_of([1, 2, 10, 11], ends=" t", first="  f"))  # its first row is missing
    assert buffer.available == 0
    buffer.add(rows_of([11, 12, 20], ends=" t", first="  f"))
    assert set(columns(buffer, 20)) == {(10, 11, 12)}
    buffer.add(rows_of([20, 21, 22, 23], first="f"))  # evicts 1 and 2 only
    assert buffer.available == 1 or len(buffer) == 6
    buffer.add(rows_of([23, 24], ends="t"))
    assert set(columns(buffer, 20)) == {(20, 21, 22, 23)}


def test_episodes_do_not_cross_gaps():
    """Test lost fragments and restarts."""
    buffer = ReplayBuffer(50, Episodes())
    buffer.add(rows_of([0, 1, 2], first="f"))
    buffer.add(rows_of([5, 6, 7], ends=" t"), sequence=4)
    buffer.add(rows_of([9, 10], ends="t"), (0, 1))
    assert buffer.available == 0


def test_episodes_are_uniform_and_so_are_their_parts():
    """Test the frequencies of parts."""
    buffer = ReplayBuffer(50, Episodes(2), seed=2)
    buffer.add(rows_of([0, 1, 10, 11, 12, 13, 20], ends=" t   t ", first="f f   f"))
    assert buffer.available == 4
    found = columns(buffer, 6000)
    assert list(found) == [(0, 1), (10, 11), (11, 12), (12, 13)]
    check_frequencies(list(found.values()), [3000, 1000, 1000, 1000])


def test_prioritize_ends_samples_ends_more_often():
    """Test the frequencies of parts near the end."""
    buffer = ReplayBuffer(50, Episodes(3, prioritize_ends=True), seed=2)
    buffer.add(rows_of([0, 1, 2, 3, 4, 20], ends="    t", first="f    f"))
    found = columns(buffer, 5000)
    assert list(found) == [(0, 1, 2), (1, 2, 3), (2, 3, 4)]
    check_frequencies(list(found.values()), [1000, 1000, 3000])  # 3 of 5 start rows reach the end or past it


def test_prioritize_ends_with_parts_of_one_row():
    """Test that all rows of the episode can be drawn."""
    buffer = ReplayBuffer(50, Episodes(1, prioritize_ends=True))
    buffer.add(rows_of([0, 1, 2], ends=" t", first="f f"))
    assert set(columns(buffer)) == {(0,), (1,)}


def test_prioritize_ends_without_length_raises():
    """Test the error at construction."""
    with pytest.raises(ValueError, match="prioritize_ends=True needs a length"):
        Episodes(prioritize_ends=True)


def test_unfinished_episodes_of_closed_streams_are_removed():
    """Test that restarts do not accumulate memory."""
    buffer = ReplayBuffer(1200, Episodes())
    for incarnation in range(1000):
        buffer.add(rows_of([0, 1, 2, 3, 4, 5, 10, 11], ends="     t", first="f     f"), (0, incarnation))
    (index,) = buffer.storage.extensions
    assert len(index._open) < 500
    assert buffer.available == 1200 // 7


def test_sampler_with_extensions_needs_a_new_buffer():
    """Test that the error names the extension."""
    buffer = ReplayBuffer(10)
    for sampler, name in ((Episodes(), "EpisodeIndex"), (Sequences(2, crosses=False), "Ages")):
        with pytest.raises(ValueError, match=f"{name}, which this buffer doesn't maintain"):
            buffer.sampler = sampler
