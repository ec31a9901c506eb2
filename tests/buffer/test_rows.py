"""What a row may consist of, and what is refused."""

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from sheeprl.buffer import ReplayBuffer
from sheeprl.buffer.episodes import Episodes
from sheeprl.buffer.priorities import Prioritized
from sheeprl.buffer.samplers import NStep, Rollout, Transitions
from sheeprl.buffer.sequences import Sequences
from sheeprl.buffer.storage import NotEnoughDataError, RefusedFragmentError
from tests.helpers.buffer_model import rows_of

# ---------------------------------------------------------------------------------------------------- dtypes

KINDS = {
    "pixels": ((3, 4, 4), torch.uint8),
    "number": ((), torch.float32),  # one of no dimension in each environment
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
    """Rows with an observation of every kind, nested, told by the row's name."""
    rows = rows_of(names, ends, first, envs=2)
    name = rows["obs"][..., 0]

    def of(kind):
        shape, dtype = KINDS[kind]
        values = name.reshape(*name.shape, *[1] * len(shape)).expand(*name.shape, *shape)
        return (values % 2 == 0) if dtype == torch.bool else (values % 100).to(dtype)

    observation = {kind: of(kind) for kind in KINDS if kind != "pixels"} | {"camera": {"pixels": of("pixels")}}
    return rows.set("obs", TensorDict(observation, rows.batch_size)).set("latent", of("bfloat16"))


def check_rich(rows, names):
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
def test_every_kind_of_row_survives(sampler, mapped, tmp_path):
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
def test_every_kind_of_row_survives_in_episodes(length):
    buffer = ReplayBuffer(40, Episodes(length))
    buffer.add(rich_rows(range(7), ends="  t  x", first="f  f"))
    sample = buffer.sample(1, 50)
    names = (sample["action"] - 0.25) % 1000
    if length is None:
        assert sample["mask"].all() and sample.batch_size == (50, 3, 1)
    check_rich(sample, names)


def test_values_of_every_kind_are_written_back():
    buffer = ReplayBuffer(12, Sequences(2))
    buffer.add(rich_rows(range(5)))
    sample = buffer.sample(4, 2)
    latent = torch.full_like(sample["latent"], -3.5)
    assert buffer.write_back(sample["index"], TensorDict({"latent": latent}, sample.batch_size)) == 16
    again = {int(n): row for n, row in zip(sample["index"].flatten(), range(16), strict=True)}
    later = buffer.sample(4, 20)
    hit = torch.isin(later["index"], torch.tensor(list(again)))
    assert (later["latent"][hit] == -3.5).all() and (later["latent"][~hit] >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int8, torch.int64])
def test_returns_of_rewards_of_any_kind(dtype):
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
    "tail": ("reward", (3, 0), float("inf"), "reward is inf in row 3 of environment 0"),
    "nested": (("obs", "float16"), (1, 0), float("-inf"), "obs/float16 is -inf in row 1 of environment 0"),
    "bfloat16": (("obs", "bfloat16"), (0, 1), float("nan"), "obs/bfloat16 is nan in row 0 of environment 1"),
    "complex": (("obs", "complex"), (1, 1), complex(0, float("inf")), r"obs/complex is .*infj? in row 1 of"),
    "number": (("obs", "number"), (2, 0), float("nan"), "obs/number is nan in row 2 of environment 0"),
}


def spoiled(what):
    key, where, value, _ = BAD[what]
    rows = rich_rows(range(4))
    rows[key][where] = value
    return rows


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("first", [False, True])
def test_what_is_not_finite_is_refused(what, first):
    buffer = ReplayBuffer(12, seed=1)
    if not first:
        buffer.add(rich_rows(range(3)))
    stored, sequence = len(buffer), int(not first)
    with pytest.raises(RefusedFragmentError, match=BAD[what][3]):
        buffer.add(spoiled(what), sequence=sequence)
    assert len(buffer) == stored and buffer.counts.refused == 1 and buffer.counts.non_finite == 0
    assert buffer.add(rich_rows(range(4)), sequence=sequence)  # its number wasn't taken
    assert buffer.counts.gaps == buffer.counts.repeated == 0


@pytest.mark.parametrize("what", BAD)
def test_what_is_not_finite_is_kept_if_it_should_be(what):
    buffer = ReplayBuffer(12, seed=1, non_finite="keep")
    assert buffer.add(spoiled(what))
    assert len(buffer) == 6 and buffer.counts.non_finite == 1 and buffer.counts.refused == 0


def test_other_keys_need_not_be_finite():
    buffer = ReplayBuffer(12)
    assert buffer.add(rows_of(range(4)).set("logprob", torch.full((4, 1), float("-inf"))))
    assert buffer.counts.non_finite == 0


# --------------------------------------------------------------------------------------------------- refused


def test_flags_are_bools():
    """A float would be taken for a row that has no end."""
    for name in ("terminated", "truncated", "is_first"):
        for dtype in (torch.float32, torch.uint8):
            buffer = ReplayBuffer(12)
            with pytest.raises(RefusedFragmentError, match=rf"{name} is {dtype}".replace("torch.", "") + r"\[4, 2\]"):
                buffer.add(rows_of(range(4), envs=2).set(name, torch.zeros(4, 2, dtype=dtype)))
            assert len(buffer) == 0 and buffer.add(rows_of(range(4)), sequence=0)
        with pytest.raises(RefusedFragmentError, match=r"flags are bool\[4, 2\]"):
            ReplayBuffer(12).add(rows_of(range(4), envs=2).set(name, torch.zeros(4, 2, 1, dtype=torch.bool)))


@pytest.mark.parametrize("name", ["index", "mask", "discount", "importance", "next_obs"])
def test_keys_that_samples_have_anyhow_are_refused(name):
    buffer = ReplayBuffer(12)
    with pytest.raises(RefusedFragmentError, match=f"the key {name} for something else"):
        buffer.add(rows_of(range(4)).set(name, torch.zeros(4, 1)))
    assert len(buffer) == 0


@pytest.mark.parametrize("shape", [(4,), (3, 1), (4, 2)])
def test_all_arrays_are_of_one_length(shape):
    with pytest.raises(RefusedFragmentError, match=r"action has shape .* but reward has \(4, 1\)"):
        ReplayBuffer(12).add_rows({**{k: v.numpy() for k, v in rows_of(range(4)).items()}, "action": np.zeros(shape)})


# ------------------------------------------------------------------------------------------- not enough yet


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (Transitions(), "there is no transition in the buffer yet"),
        (NStep(2, 0.9), "there is no transition in the buffer yet"),
        (Sequences(9), "no stream in the buffer has 9 rows in a row yet"),
        (Sequences(9, crosses=False), "no episode in the buffer has 9 rows in a row yet"),
        (Episodes(), "no whole episode of 1 rows or more is in the buffer yet"),
        (Episodes(9), "no whole episode of 9 rows or more is in the buffer yet"),
        (Rollout(), "there is no row in the buffer yet"),
    ],
)
def test_too_little_is_told(sampler, message):
    buffer = ReplayBuffer(12, sampler)
    assert buffer.available == 0
    for _ in range(2):
        for draw in (buffer.sample, buffer.draw):
            with pytest.raises(NotEnoughDataError, match=message):
                draw(1)
        if "row in the" in message:
            return
        buffer.add(rows_of(range(4), ends="ttt"))  # neither a transition nor a whole episode
        assert buffer.available == 0


@pytest.mark.parametrize("prioritized", [None, Prioritized()])
@pytest.mark.parametrize(("sampler", "there"), [(Transitions(), 4), (NStep(2, 0.9), 4), (Sequences(3), 2)])
def test_a_batch_larger_than_what_is_stored(sampler, there, prioritized):
    buffer = ReplayBuffer(12, sampler, prioritized=prioritized)
    buffer.add(rows_of(range(5)))
    with pytest.raises(NotEnoughDataError, match=f"{there + 1} was asked for; there are only {there} sample"):
        buffer.sample(there + 1)
    assert buffer.sample(there, 3)["index"].shape[-1] == there


# ----------------------------------------------------------------------------------------------------- counts


def test_what_went_another_way_is_counted():
    buffer = ReplayBuffer(4)
    buffer.add(rows_of([0, 1]), (0, 3), 5)  # the first that is known of this player: nothing is known to be lost
    assert buffer.counts.gaps == 0
    buffer.add(rows_of([1, 2]), (0, 3), 7)
    assert not buffer.add(rows_of([1, 2]), (0, 3), 6)  # it comes too late
    assert not buffer.add(rows_of([1, 2]), (0, 2), 9)
    assert (buffer.counts.gaps, buffer.counts.repeated) == (1, 2)
    found = {int(sample["obs"]): int(sample["next_obs"]) for sample in buffer.sample(1, 200).reshape(-1).unbind(0)}
    assert found == {0: 1, 1: 2}
    assert buffer.sampler.available(buffer.storage) == 2
    buffer.sampler = Sequences(2)
    assert buffer.available == 0  # nothing runs over the gap
    buffer.write_back(np.array([0, 1, 99]), TensorDict({"action": torch.zeros(3)}, [3]))
    assert buffer.counts.late_writes == 1


def test_the_filling_behind_an_episode_is_not_late():
    buffer = ReplayBuffer(10, Episodes())
    buffer.add(rows_of(range(6), ends=" t  t", first="f f"))
    sample = buffer.sample(1, 20)
    assert (sample["index"] == -1).any()
    values = TensorDict({"action": torch.zeros(sample.shape)}, sample.shape)
    assert buffer.write_back(sample["index"], values) == int(sample["mask"].sum())
    assert buffer.counts.late_writes == 0
