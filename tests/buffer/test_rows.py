"""Kinds of rows, refused fragments and counts."""

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from sheeprl.buffer import ReplayBuffer
from sheeprl.buffer.episodes import Episodes
from sheeprl.buffer.fragments import RefusedFragmentError
from sheeprl.buffer.priorities import Prioritized
from sheeprl.buffer.samplers import NStep, Rollout, Transitions
from sheeprl.buffer.sequences import Sequences
from sheeprl.buffer.storage import NotEnoughDataError
from tests.helpers.buffer_model import rows_of

# ---------------------------------------------------------------------------------------------------- dtypes

KINDS = {
    "pixels": ((3, 4, 4), torch.uint8),
    "number": ((), torch.float32),  # a scalar in each environment
    "int8": ((2,), torch.int8),
    "int64": ((2,), torch.int64),
    "bool": ((2,), torch.bool),
    "float16": ((2, 3), torch.float16),
    "bfloat16": ((2, 3), torch.bfloat16),
    "bfloat16 number": ((), torch.bfloat16),
    "float64": ((1,), torch.float64),
    "complex": ((2,), torch.complex64),
}


def rich_rows(names, ends="", first=""):
    """Return rows with nested observations of every kind, whose values follow from the names of the rows."""
    rows = rows_of(names, ends, first, envs=2)
    name = rows["obs"][..., 0]

    def of(kind):
        """Return the values of a kind."""
        shape, dtype = KINDS[kind]
        values = name.reshape(*name.shape, *[1] * len(shape)).expand(*name.shape, *shape)
        return (values % 2 == 0) if dtype == torch.bool else (values % 100).to(dtype)

    observation = {kind: of(kind) for kind in KINDS if kind != "pixels"} | {"camera": {"pixels": of("pixels")}}
    return rows.set("obs", TensorDict(observation, rows.batch_size)).set("latent", of("bfloat16"))


def check_rich(rows, names):
    """Assert that rows have the observations of their names."""
    expected = rich_rows([0, 1])
    for key in expected.keys(include_nested=True, leaves_only=True):
        assert rows[key].dtype == expected[key].dtype, key
        assert rows[key].shape == (*names.shape, *expected[key].shape[2:]), key
    same = rich_rows(names.flatten().tolist())[:, 0].reshape(names.shape)
    for key in same["obs"].keys(include_nested=True, leaves_only=True):
        assert torch.equal(rows["obs"][key], same["obs"][key]), key
    assert torch.equal(rows["latent"], same["latent"])


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("sampler", [Transitions(), NStep(2, 0.5), Sequences(2, True), Sequences(2, crosses=False)])
def test_every_kind_of_row_is_restored(sampler, mapped, tmp_path):
    """Test all dtypes with `save`, `state_dict` and `attach`."""
    buffer = ReplayBuffer(12, sampler, memmap=tmp_path / "memory" if mapped else None)
    for begin in (0, 5):
        buffer.add(rich_rows(range(begin, begin + 6)))
    buffer.save(tmp_path / "save")
    loaded, taken = ReplayBuffer(12, sampler), ReplayBuffer(12, sampler)
    loaded.load(tmp_path / "save")
    taken.load_state_dict(buffer.state_dict())
    buffers = [buffer, loaded, taken]
    if mapped:
        buffer.close()
        buffers[0] = ReplayBuffer.attach(tmp_path / "memory", 12, sampler)
    for each in buffers:
        each.add(rich_rows(range(10, 12)))
        sample = each.sample(4, 50)
        names = sample["action"] - 0.25
        check_rich(sample, names % 1000)
        if "next_obs" in sample.keys():  # noqa: SIM118
            after = sample.clone().set("obs", sample["next_obs"])
            steps = 1 if isinstance(sampler, Transitions) else 2
            names = torch.minimum(names % 1000 + steps, torch.tensor(11.0))
            for key in after["obs"].keys(include_nested=True, leaves_only=True):
                expected = rich_rows(names.flatten().tolist())[:, 0].reshape(names.shape)
                assert torch.equal(after["obs"][key], expected["obs"][key]), key


@pytest.mark.parametrize("length", [None, 2])
def test_episodes_of_every_kind_of_row(length):
    """Test all dtypes in padded and in fixed-length episodes."""
    buffer = ReplayBuffer(40, Episodes(length))
    buffer.add(rich_rows(range(7), ends="  t  x", first="f  f"))
    sample = buffer.sample(1, 50)
    names = (sample["action"] - 0.25) % 1000
    if length is None:
        assert sample["mask"].all() and sample.batch_size == (50, 3, 1)
    check_rich(sample, names)


def test_write_back_of_bfloat16():
    """Test a dtype that NumPy does not have."""
    buffer = ReplayBuffer(12, Sequences(2))
    buffer.add(rich_rows(range(5)))
    sample = buffer.sample(4, 2)
    latent = torch.full_like(sample["latent"], -3.5)
    assert buffer.write_back(sample["index"], TensorDict({"latent": latent}, sample.batch_size)) == 16
    written = {int(number) for number in sample["index"].flatten()}
    later = buffer.sample(4, 20)
    hit = torch.isin(later["index"], torch.tensor(list(written)))
    assert (later["latent"][hit] == -3.5).all() and (later["latent"][~hit] >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int8, torch.int64])
def test_n_step_returns_of_every_reward_dtype(dtype):
    """Test that integer rewards give fractional returns."""
    buffer = ReplayBuffer(10, NStep(3, 0.5))
    rows = rows_of(range(5))
    buffer.add(rows.set("reward", torch.tensor([[0], [1], [2], [3], [4]]).to(dtype)))
    sample = buffer.sample(4, 1)[0]
    expected = {0: 1 + 1 + 0.75, 1: 2 + 1.5 + 1, 2: 3 + 2, 3: 4.0}
    for number, reward in zip(sample["index"].tolist(), sample["reward"].tolist(), strict=True):
        assert reward == expected[number]


# ------------------------------------------------------------------------------------------------- not finite

BAD = {
    "reward": ("reward", (2, 1), float("nan"), "reward is nan in row 2 of environment 1"),
    "bootstrap row": ("reward", (3, 0), float("inf"), "reward is inf in row 3 of environment 0"),
    "nested": (("obs", "float16"), (1, 0), float("-inf"), "obs/float16 is -inf in row 1 of environment 0"),
    "bfloat16": (("obs", "bfloat16"), (0, 1), float("nan"), "obs/bfloat16 is nan in row 0 of environment 1"),
    "complex": (("obs", "complex"), (1, 1), complex(0, float("inf")), r"obs/complex is .*infj? in row 1 of"),
    "number": (("obs", "number"), (2, 0), float("nan"), "obs/number is nan in row 2 of environment 0"),
}


def spoiled(what):
    """Return rows with a value that is not finite."""
    key, where, value, _ = BAD[what]
    rows = rich_rows(range(4))
    rows[key][where] = value
    return rows


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("first", [False, True])
def test_non_finite_value_is_refused(what, first):
    """Test that the error names key, row and environment, and that nothing is stored."""
    buffer = ReplayBuffer(12, seed=1)
    if not first:
        buffer.add(rich_rows(range(3)))
    stored, sequence = len(buffer), int(not first)
    with pytest.raises(RefusedFragmentError, match=BAD[what][3]):
        buffer.add(spoiled(what), sequence=sequence)
    assert len(buffer) == stored and buffer.counts.refused == 1 and buffer.counts.non_finite == 0
    assert buffer.add(rich_rows(range(4)), sequence=sequence)  # its sequence number is unused
    assert buffer.counts.gaps == buffer.counts.repeated == 0


@pytest.mark.parametrize("what", BAD)
def test_non_finite_value_is_stored_with_keep(what):
    """Test that the fragment is counted."""
    buffer = ReplayBuffer(12, seed=1, non_finite="keep")
    assert buffer.add(spoiled(what))
    assert len(buffer) == 6 and buffer.counts.non_finite == 1 and buffer.counts.refused == 0


def test_other_keys_may_be_non_finite():
    """Test that only rewards and observations are checked."""
    buffer = ReplayBuffer(12)
    assert buffer.add(rows_of(range(4)).set("logprob", torch.full((4, 1), float("-inf"))))
    assert buffer.counts.non_finite == 0


# --------------------------------------------------------------------------------------------------- refused


def test_flags_must_be_bool():
    """Test that other dtypes are refused, which would be misread as rows without ends."""
    for name in ("terminated", "truncated", "is_first"):
        for dtype in (torch.float32, torch.uint8):
            buffer = ReplayBuffer(12)
            with pytest.raises(RefusedFragmentError, match=rf"{name} is {dtype}".replace("torch.", "") + r"\[4, 2\]"):
                buffer.add(rows_of(range(4), envs=2).set(name, torch.zeros(4, 2, dtype=dtype)))
            assert len(buffer) == 0 and buffer.add(rows_of(range(4)), sequence=0)
        with pytest.raises(RefusedFragmentError, match=r"flags are bool\[4, 2\]"):
            ReplayBuffer(12).add(rows_of(range(4), envs=2).set(name, torch.zeros(4, 2, 1, dtype=torch.bool)))


@pytest.mark.parametrize("name", ["index", "mask", "discount", "importance", "next_obs"])
def test_reserved_keys_are_refused(name):
    """Test the keys that samples add."""
    buffer = ReplayBuffer(12)
    with pytest.raises(RefusedFragmentError, match=f"the key {name} is reserved for samples"):
        buffer.add(rows_of(range(4)).set(name, torch.zeros(4, 1)))
    assert len(buffer) == 0


@pytest.mark.parametrize("shape", [(4,), (3, 1), (4, 2)])
def test_arrays_of_different_lengths_are_refused(shape):
    """Test that the error names both shapes."""
    with pytest.raises(RefusedFragmentError, match=r"action has shape .* but reward has \(4, 1\)"):
        ReplayBuffer(12).add_rows({**{k: v.numpy() for k, v in rows_of(range(4)).items()}, "action": np.zeros(shape)})


# ------------------------------------------------------------------------------------------ not enough data


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (Transitions(), "the buffer holds no transition yet"),
        (NStep(2, 0.9), "the buffer holds no transition yet"),
        (Sequences(9), "no stream in the buffer has 9 consecutive rows yet"),
        (Sequences(9, crosses=False), "no episode in the buffer has 9 consecutive rows yet"),
        (Episodes(), "the buffer holds no complete episode of at least 1 row yet"),
        (Episodes(9), "the buffer holds no complete episode of at least 9 rows yet"),
        (Rollout(), "the buffer holds no row yet"),
    ],
)
def test_error_names_what_is_missing(sampler, message):
    """Test an empty buffer, and one without a valid sample."""
    buffer = ReplayBuffer(12, sampler)
    assert buffer.available == 0
    for _ in range(2):
        for draw in (buffer.sample, buffer.draw):
            with pytest.raises(NotEnoughDataError, match=message):
                draw(1)
        if "no row" in message:
            return
        buffer.add(rows_of(range(4), ends="ttt"))  # neither a transition nor a complete episode
        assert buffer.available == 0


@pytest.mark.parametrize("prioritized", [None, Prioritized()])
@pytest.mark.parametrize(("sampler", "size"), [(Transitions(), 4), (NStep(2, 0.9), 4), (Sequences(3), 2)])
def test_batch_larger_than_the_buffer_raises(sampler, size, prioritized):
    """Test that a batch of all samples can be drawn."""
    buffer = ReplayBuffer(12, sampler, prioritized=prioritized)
    buffer.add(rows_of(range(5)))
    with pytest.raises(NotEnoughDataError, match=f"batch_size={size + 1} but the buffer holds only {size} samples"):
        buffer.sample(size + 1)
    assert buffer.sample(size, 3)["index"].shape[-1] == size


# ----------------------------------------------------------------------------------------------------- counts


def test_exceptional_fragments_are_counted():
    """Test lost, repeated and outdated fragments, and late writes."""
    buffer = ReplayBuffer(4)
    buffer.add(rows_of([0, 1]), (0, 3), 5)  # the first fragment of this player: no loss is known
    assert buffer.counts.gaps == 0
    buffer.add(rows_of([1, 2]), (0, 3), 7)
    assert not buffer.add(rows_of([1, 2]), (0, 3), 6)  # too late
    assert not buffer.add(rows_of([1, 2]), (0, 2), 9)
    assert (buffer.counts.gaps, buffer.counts.repeated) == (1, 2)
    found = {int(sample["obs"]): int(sample["next_obs"]) for sample in buffer.sample(1, 200).reshape(-1).unbind(0)}
    assert found == {0: 1, 1: 2}
    assert buffer.sampler.available(buffer.storage) == 2
    buffer.sampler = Sequences(2)
    assert buffer.available == 0  # no sequence crosses the gap
    buffer.write_back(np.array([0, 1, 99]), TensorDict({"action": torch.zeros(3)}, [3]))
    assert buffer.counts.late_writes == 1


def test_padding_of_an_episode_is_not_counted_as_late():
    """Test a write back of padded episodes."""
    buffer = ReplayBuffer(10, Episodes())
    buffer.add(rows_of(range(6), ends=" t  t", first="f f"))
    sample = buffer.sample(1, 20)
    assert (sample["index"] == -1).any()
    values = TensorDict({"action": torch.zeros(sample.shape)}, sample.shape)
    assert buffer.write_back(sample["index"], values) == int(sample["mask"].sum())
    assert buffer.counts.late_writes == 0
