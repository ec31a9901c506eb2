"""The buffer with explicit fragments, one feature per test."""

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from sheeprl.buffer import ReplayBuffer
from sheeprl.buffer.fragments import RefusedFragmentError
from sheeprl.buffer.samplers import Rollout, Transitions
from sheeprl.buffer.sequences import Sequences
from sheeprl.buffer.storage import NotEnoughDataError
from tests.helpers.buffer_model import check_frequencies, draw_all, rows_of


def test_transitions_of_an_episode_with_its_end_row():
    """Test that the end row begins no transition."""
    buffer = ReplayBuffer(10)
    buffer.add(rows_of([0, 1, 2, 10, 11], ends="  t", first="f  f "))
    found = {int(sample["obs"]): sample for sample in draw_all(buffer)}
    assert set(found) == {0, 1, 10}  # row 2 is the end row: it has no action
    assert found[0]["next_obs"].item() == 1 and found[1]["next_obs"].item() == 2 and found[10]["next_obs"].item() == 11
    assert [bool(found[name]["terminated"]) for name in (0, 1, 10)] == [False, True, False]
    assert found[1]["reward"] == pytest.approx(0.2)  # received on arrival at the end
    assert found[10]["action"] == 10.25


def test_first_row_of_the_next_fragment_replaces_the_bootstrap_row():
    """Test the transition across two fragments."""
    buffer = ReplayBuffer(10)
    buffer.add(rows_of([0, 77], ends=" x"))
    (only,) = draw_all(buffer)
    assert only["next_obs"] == 77 and only["truncated"] and not only["terminated"]
    buffer.add(rows_of([1, 2], ends="t"))
    (only,) = draw_all(buffer)  # row 1 ended an episode
    assert only["obs"] == 0 and only["next_obs"] == 1 and only["terminated"] and not only["truncated"]


def test_new_incarnation_begins_new_streams():
    """Test that no sample crosses a restart."""
    buffer = ReplayBuffer(10)
    buffer.add(rows_of([0, 1]), (3, 0))
    buffer.add(rows_of([50, 51]), (3, 1))
    found = {int(sample["obs"]): int(sample["next_obs"]) for sample in draw_all(buffer)}
    assert found == {0: 1, 50: 51}
    buffer.sampler = Sequences(2)
    assert not buffer.available


@pytest.mark.parametrize("resume", [False, True])
def test_bootstrap_rows_of_closed_streams_live_as_long_as_their_rows(resume, tmp_path):
    """Test that they are available, and that their slots are reused."""
    buffer = ReplayBuffer(4)
    for incarnation in range(12):
        buffer.add(rows_of([10 * incarnation, 10 * incarnation + 1]), (0, incarnation))
        if resume:
            buffer.save(tmp_path / str(incarnation))
            buffer = ReplayBuffer(4)
            buffer.load(tmp_path / str(incarnation))
    found = {int(sample["obs"]): int(sample["next_obs"]) for sample in draw_all(buffer)}
    assert found == {80: 81, 90: 91, 100: 101, 110: 111}
    assert len(buffer.storage.bootstrap_rows["reward"]) <= 16  # slots of evicted streams are reused


def test_nothing_is_available_after_the_last_transition_is_evicted():
    """Test a buffer of end rows."""
    buffer = ReplayBuffer(2)
    buffer.add(rows_of([0, 1, 2]))
    assert buffer.available
    buffer.add(rows_of([2, 3, 4], ends="tt"))
    assert not buffer.available
    with pytest.raises(NotEnoughDataError):
        buffer.sample(1)


def test_nothing_is_available_if_no_stream_is_long_enough():
    """Test the eviction of the only sequence."""
    buffer = ReplayBuffer(3, Sequences(2))
    buffer.add(rows_of([0, 1, 2, 3]))
    assert buffer.available
    for player in (1, 2):
        buffer.add(rows_of([10, 11]), (player, 0))
    assert not buffer.available
    with pytest.raises(NotEnoughDataError):
        buffer.sample(1)


@pytest.mark.parametrize("sampler", [Transitions(), Sequences(2), Sequences(2, context=True)])
def test_samples_are_uniform(sampler):
    """Test the frequencies of all samples."""
    buffer = ReplayBuffer(30, sampler, seed=1)
    for number in range(9):
        buffer.add(rows_of([10 * number, 1, 2, 3, 4], ends="  t" if number % 2 else "", envs=1), (number % 2, 0))
    index = buffer.sample(1, 10_000)["index"]
    firsts = index if index.dim() == 2 else index[:, int(isinstance(sampler, Sequences) and sampler.context)]
    counts = np.unique(firsts.numpy(), return_counts=True)[1]
    assert len(counts) > 20
    check_frequencies(counts, np.full(len(counts), 10_000 / len(counts)))


def test_samples_are_uniform_among_few_transitions():
    """Test the draw from the list of valid slots."""
    buffer = ReplayBuffer(1000, seed=2)
    buffer.add(rows_of(range(1001), ends="t" * 400 + "   " + "t" * 597))
    index, counts = np.unique(buffer.sample(1, 9000)["index"].numpy(), return_counts=True)
    assert index.tolist() == [400, 401, 402]
    assert ((counts - 3000) ** 2 / 3000).sum() < 10


def test_draws_depend_on_the_seed_only():
    """Test that the global generators have no effect."""

    def draw(seed):
        """Return draws under other states of the global generators."""
        np.random.seed(len(str(seed)))
        torch.manual_seed(seed)
        buffer = ReplayBuffer(100, Transitions(), seed)
        buffer.add(rows_of(range(50)))
        return buffer.sample(20, 3)["index"].tolist()

    assert draw(5) == draw(5)
    assert draw(5) != draw(6)


def test_each_sample_is_a_new_draw():
    """Test two samples in a row."""
    buffer = ReplayBuffer(100)
    buffer.add(rows_of(range(50)))
    assert buffer.sample(20)["index"].tolist() != buffer.sample(20)["index"].tolist()


def test_samples_are_copies():
    """Test that writes to a sample do not change the buffer."""
    buffer = ReplayBuffer(4)
    buffer.add(rows_of([0, 1]))
    buffer.sample(1, 8).apply_(lambda values: values.fill_(1))
    assert buffer.sample(1)["obs"].item() == 0 and buffer.sample(1)["next_obs"].item() == 1


def test_read_only_rows_are_added():
    """Test arrays from the object store."""
    fragment = rows_of([0, 1, 2])
    frozen = {name: values.numpy() for name, values in fragment.items()}
    for values in frozen.values():
        values.flags.writeable = False
    buffer = ReplayBuffer(4)
    buffer.add_rows(frozen)
    assert [int(sample["obs"]) for sample in draw_all(buffer)] == [0, 1]


def test_fragments_of_replaced_incarnations_are_ignored():
    """Test late fragments of older incarnations."""
    buffer = ReplayBuffer(10)
    buffer.add(rows_of([0, 1]), (0, 0))
    buffer.add(rows_of([50, 51]), (0, 2))
    assert not buffer.add(rows_of([1, 2]), (0, 0), 1)
    assert not buffer.add(rows_of([1, 2]), (0, 1), 0)
    assert len(buffer) == 2
    assert buffer.add(rows_of([70, 71]), (1, 0))  # first incarnation of another player


def test_loaded_ring_continues_its_streams(tmp_path):
    """Test sequences across a load of a full ring."""
    buffer = ReplayBuffer(4, Sequences(2, context=True))
    buffer.add(rows_of([0, 1, 2, 3]))
    buffer.add(rows_of([3, 4, 5, 6]))  # overwrites 0 and 1
    buffer.save(tmp_path / "buffer")
    buffer = ReplayBuffer(4, Sequences(2, context=True))
    buffer.load(tmp_path / "buffer")
    for oldest in (2, 3):
        columns = {tuple(column) for column in buffer.sample(1, 500)["obs"][:, :, 0, 0].tolist()}
        assert columns == {(oldest, oldest + 1, oldest + 2), (oldest + 1, oldest + 2, oldest + 3)}
        buffer.add(rows_of([oldest + 4, oldest + 5]), sequence=oldest)


# ------------------------------------------------------------------------------------------------- sequences


def test_sequence_crosses_episodes_and_fragments():
    """Test all keys of the sequence."""
    buffer = ReplayBuffer(10, Sequences(5))
    buffer.add(rows_of([0, 1, 2, 10], ends="  t", first="f  f"))
    buffer.add(rows_of([10, 11, 12], first="f"))
    (sequence,) = buffer.sample(1, 1).unbind(0)
    assert sequence["obs"].flatten().tolist() == [0, 1, 2, 10, 11]
    assert sequence["is_first"].flatten().tolist() == [True, False, False, True, False]
    assert sequence["terminated"].flatten().tolist() == [False, False, True, False, False]
    assert sequence["index"].flatten().tolist() == [0, 1, 2, 3, 4]


def test_context_row_repeats_the_first_row_of_a_stream():
    """Test sequences at the beginning of a stream."""
    buffer = ReplayBuffer(10, Sequences(2, context=True))
    buffer.add(rows_of([0, 1, 2, 3]))
    columns = {tuple(column) for column in buffer.sample(1, 500)["obs"][:, :, 0, 0].tolist()}
    assert columns == {(0, 0, 1), (0, 1, 2)}


@pytest.mark.parametrize("first", ["f", " "])
def test_what_was_before_the_first_row_of_a_stream_is_unknown(first):
    """Test that a sequence without a row before it begins an episode, also in a stream that begins inside of one."""
    buffer = ReplayBuffer(10, Sequences(2, context=True))
    buffer.add(rows_of([6, 7, 8], first=first))
    sample = buffer.sample(1, 50)
    begins = sample["obs"][0, 0, :, 0] == sample["obs"][0, 1, :, 0]
    assert torch.equal(sample["is_first"][0, 1], begins) and begins.any()


def test_context_row_must_be_stored():
    """Test sequences at the oldest stored row."""
    buffer = ReplayBuffer(3, Sequences(1, context=True))
    buffer.add(rows_of([0, 1, 2, 3]))
    buffer.add(rows_of([3, 4]))  # overwrites row 0
    columns = {tuple(column) for column in buffer.sample(1, 500)["obs"][:, :, 0, 0].tolist()}
    assert columns == {(1, 2), (2, 3)}


def test_each_environment_is_a_stream():
    """Test that no sequence mixes environments."""
    buffer = ReplayBuffer(12, Sequences(2))
    buffer.add(rows_of([0, 1, 2, 3], envs=3))
    columns = {tuple(column) for column in buffer.sample(1, 1000)["obs"][:, :, 0, 0].tolist()}
    assert columns == {(base + row, base + row + 1) for base in (0, 1000, 2000) for row in (0, 1)}


# ------------------------------------------------------------------------------------------------ write back


def test_write_back_skips_evicted_rows():
    """Test that only stored rows are overwritten."""
    buffer = ReplayBuffer(4)
    buffer.add(rows_of([0, 1, 2, 3, 4]))
    index = np.array([0, 1, 2, 3])
    buffer.add(rows_of([4, 5, 6]))  # evicts rows 0 and 1
    assert buffer.write_back(index, TensorDict({"action": torch.tensor([-1.0, -2, -3, -4])}, [4])) == 2
    actions = {int(sample["obs"]): float(sample["action"]) for sample in draw_all(buffer)}
    assert actions == {2: -3.0, 3: -4.0, 4: 4.25, 5: 5.25}


def test_write_back_of_unknown_key_raises():
    """Test that the error names the key."""
    buffer = ReplayBuffer(4)
    buffer.add(rows_of([0, 1]))
    with pytest.raises(KeyError, match="latent"):
        buffer.write_back(np.array([0]), TensorDict({"latent": torch.zeros(1)}, [1]))


# --------------------------------------------------------------------------------------------------- rollout


def test_columns_of_a_rollout_follow_players_and_environments():
    """Test two rounds of fragments in another order."""
    buffer = ReplayBuffer(3 * 5, Rollout())
    for round_number in range(2):  # the second round replaces the first
        base = 100 * round_number
        buffer.add(rows_of([base + 7, base + 8, base + 9, base + 10], envs=2), (12, 0))
        buffer.add(rows_of([base + 1, base + 2, base + 3, base + 4], envs=1), (2, 4))
        buffer.add(rows_of([base + 4, base + 5, base + 6, base + 7], envs=2), (5, 0))
        rollout = buffer.sample(64)
        assert rollout.batch_size == (4, 5)
        first = torch.tensor([1.0, 4, 1004, 7, 1007]) + base
        assert torch.equal(rollout["obs"][..., 0], first + torch.arange(4.0)[:, None])
        assert torch.equal(rollout["reward"], rollout["obs"][..., 0] / 10)


def test_rollout_after_a_restart_of_a_player():
    """Test that the rollout contains the new incarnation only."""
    buffer = ReplayBuffer(4, Rollout())
    buffer.add(rows_of([0, 1, 2]), (1, 0))
    buffer.add(rows_of([10, 11, 12]), (0, 0))
    buffer.add(rows_of([90, 91, 92]), (0, 1))
    buffer.add(rows_of([2, 3, 4]), (1, 0))
    assert buffer.sample(1)["obs"][..., 0].tolist() == [[90, 2], [91, 3], [92, 4]]


def test_rollout_needs_the_same_number_of_rows_of_every_stream():
    """Test that the error names the numbers of rows."""
    buffer = ReplayBuffer(4, Rollout())
    assert not buffer.available
    buffer.add(rows_of([0, 1]), (0, 0))
    buffer.add(rows_of([0, 1, 2]), (1, 0))
    with pytest.raises(NotEnoughDataError, match="not 1, 2"):
        buffer.sample(1)


# -------------------------------------------------------------------------------------------------- refusals


def without(key):
    """Return a fragment without a key."""
    return rows_of([5, 6, 7]).exclude(key)


def with_value(key, value):
    """Return a fragment with another value of a key."""
    return rows_of([5, 6, 7]).set(key, value)


REFUSED = {
    "has no reward": without("reward"),
    "has no action": without("action"),
    "has no is_first": without("is_first"),
    "keys differ.*obs": without("obs"),
    "keys differ.*extra": with_value("extra", torch.zeros(3, 1)),
    r"obs is float32\[2\], but the stored rows have float32\[1\]": with_value("obs", torch.zeros(3, 1, 2)),
    "obs is uint8": with_value("obs", torch.zeros(3, 1, 1, dtype=torch.uint8)),
    "action is float64": with_value("action", torch.zeros(3, 1, dtype=torch.float64)),
    "9 x 1 rows, more than the capacity of 8": rows_of(range(10)),
    "T and B at least 1": rows_of([5]),
    "player 0 has 2 environments, but its earlier fragments have 1": rows_of([5, 6, 7], envs=2),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused_fragment_is_not_stored(message):
    """Test every reason for a refusal, and that the buffer is unchanged."""
    buffer = ReplayBuffer(8)
    buffer.add(rows_of([0, 1, 2]))
    with pytest.raises(RefusedFragmentError, match=message):
        buffer.add(REFUSED[message])
    assert len(buffer) == 2
    found = {int(sample["obs"]): int(sample["next_obs"]) for sample in draw_all(buffer)}
    assert found == {0: 1, 1: 2}
    assert buffer.add(rows_of([2, 3]), sequence=1)  # the refused fragment used no sequence number
    found = {int(sample["obs"]): int(sample["next_obs"]) for sample in draw_all(buffer)}
    assert found == {0: 1, 1: 2, 2: 3}


@pytest.mark.parametrize("refused", [rows_of(range(10)), without("reward"), rows_of([5])])
def test_refused_first_fragment_does_not_define_the_rows(refused):
    """Test that a fragment of another shape can follow."""
    buffer = ReplayBuffer(8)
    with pytest.raises(RefusedFragmentError):
        buffer.add(refused)
    assert len(buffer) == 0 and not buffer.available
    assert buffer.add(with_value("obs", torch.zeros(3, 1, 5, dtype=torch.uint8)), sequence=0)  # of another shape


def test_capacity_of_0_raises():
    """Test the error at construction."""
    with pytest.raises(ValueError, match="capacity=0"):
        ReplayBuffer(0)


def test_loading_another_capacity_raises(tmp_path):
    """Test that the error names the setting."""
    buffer = ReplayBuffer(8)
    buffer.add(rows_of([0, 1]))
    buffer.save(tmp_path / "buffer")
    with pytest.raises(ValueError, match=r"use buffer\.size=8"):
        ReplayBuffer(9).load(tmp_path / "buffer")


def test_load_restores_the_generator(tmp_path):
    """Test that both buffers draw the same samples."""
    buffer = ReplayBuffer(50, seed=3)
    buffer.add(rows_of(range(40)))
    buffer.sample(5)
    buffer.save(tmp_path / "buffer")
    restored = ReplayBuffer(50, seed=4)
    restored.load(tmp_path / "buffer")
    assert torch.equal(buffer.sample(10, 2)["index"], restored.sample(10, 2)["index"])
