"""Test that a buffer of single frames returns the samples of a buffer of stacked observations."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sheeprl.buffer import ReplayBuffer
from sheeprl.buffer.samplers import NStep, Transitions
from sheeprl.buffer.sequences import Sequences

K = 3  # frames of a stack
SAMPLERS = [Transitions(), NStep(3, 0.9), Sequences(4), Sequences(3, context=True), Sequences(2, crosses=False)]


@dataclass
class Stream:
    """Environments of one incarnation of a player, whose frames are numbered."""

    envs: int
    stacks: list = field(default_factory=list)  # the current stack `[K]` of each environment
    is_last: list = field(default_factory=list)

    def row(self, number, ends):
        """Return the next row's stacks, is_first and terminated, for frames that begin with `number`."""
        first = [True] * self.envs if not self.stacks else list(self.is_last)
        frames = range(number, number + self.envs)
        before = self.stacks or [None] * self.envs
        self.stacks = [
            [frame] * K if is_first else [*stack[1:], frame]
            for frame, stack, is_first in zip(frames, before, first, strict=True)
        ]
        self.is_last = [end and not is_first for end, is_first in zip(ends, first, strict=True)]
        return [list(stack) for stack in self.stacks], first, list(self.is_last)


def fragments(plan, seed):
    """Yield (stream key, stacked fragment, fragment of single frames) for a plan of (player, rows, new incarnation)."""
    rng, streams, lives, tails, number = np.random.default_rng(seed), {}, {}, {}, 0
    for player, rows, is_new in plan:
        lives[player] = lives.get(player, 0) + bool(is_new)
        key = (player, lives[player])
        stream = streams.setdefault(key, Stream(envs=1 + player))
        made = [tails[key]] if key in tails else []
        while len(made) < rows + 1:
            made.append(stream.row(number, rng.random(stream.envs) < 0.25))
            number += stream.envs
        tails[key] = made[-1]
        stacks, first, last = (np.array([row[part] for row in made]) for part in range(3))
        common = {
            "action": np.zeros(first.shape, np.int64),
            "reward": stacks[..., -1].astype(np.float32),
            "is_first": first,
            "terminated": last,
            "truncated": np.zeros_like(last),
        }
        yield key, {**common, "obs/a": stacks}, {**common, "obs/a": stacks[..., -1]}


plans = st.lists(st.tuples(st.integers(0, 1), st.integers(1, 5), st.sampled_from([False] * 5 + [True])), min_size=1)


def both(sampler, plan, seed, capacity):
    """Return a buffer of stacks and a buffer of frames with the same content."""
    stacked, single = (
        ReplayBuffer(capacity, sampler, seed),
        ReplayBuffer(capacity, sampler, seed, frame_stack={"obs/a": K}),
    )
    for key, stacks, frames in fragments(plan, seed):
        stacked.add_rows(stacks, key)
        single.add_rows(frames, key)
    return stacked, single


def check(stacked, single):
    """Check that both buffers return the same samples; frames before the oldest stored one may be repeated."""
    assert stacked.available == single.available
    if not single.available:
        return
    expected, found = stacked.draw(8, 4), single.draw(8, 4)
    stored = set(single.storage.rows["obs/a"][: len(single)].tolist())
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        assert values.dtype == found[name].dtype and values.shape == found[name].shape
        if not name.partition("/")[0].endswith("obs"):
            assert np.array_equal(values, found[name])
            continue
        for want, got in zip(values.reshape(-1, K).tolist(), found[name].reshape(-1, K).tolist(), strict=True):
            known = stored | {want[-1]}  # which may be a bootstrap row
            oldest = next(frame for frame in want if frame in known)
            assert got == [frame if frame in known else oldest for frame in want]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
@settings(max_examples=40, deadline=None)
@given(plan=plans, seed=st.integers(0, 100), capacity=st.sampled_from([12, 20, 500]))
def test_frames_are_stacked_on_reading(sampler, plan, seed, capacity):
    """A buffer of frames samples the stacks that the policy saw, for every sampler and any loss of players."""
    check(*both(sampler, plan, seed, capacity))


def test_frames_survive_a_save_and_a_kill(tmp_path):
    """A saved or memory-mapped buffer of frames returns the same samples afterwards."""
    plan, seed = [(0, 4, False), (1, 3, False), (0, 2, False), (1, 3, True)], 7
    stacked, single = both(Transitions(), plan, seed, 50)
    single.save(tmp_path / "save")
    loaded = ReplayBuffer(50, Transitions(), 99, frame_stack={"obs/a": K})
    loaded.load(tmp_path / "save")
    mapped = ReplayBuffer(50, Transitions(), seed, frame_stack={"obs/a": K}, memmap=tmp_path / "map")
    for key, _, frames in fragments(plan, seed):
        mapped.add_rows(frames, key)
    mapped.close()
    attached = ReplayBuffer.attach(tmp_path / "map", 50, Transitions(), seed, frame_stack={"obs/a": K})
    expected = stacked.draw(8, 4)
    for buffer in (loaded, attached):
        for name, values in buffer.draw(8, 4).items():
            assert np.array_equal(values, expected[name])


def test_a_row_takes_the_memory_of_one_frame():
    """Rows hold one frame; the size of samples counts all of them."""
    _, single = both(Transitions(), [(0, 4, False)], 0, 50)
    assert single.storage.rows["obs/a"].shape == (50,)
    others = sum(values.itemsize for name, values in single.storage.rows.items() if name != "obs/a")
    assert single.sample_bytes == 2 * (8 * K + others)


@pytest.mark.parametrize("wrong", [{"obs": 0}, {"obs/a": 3, "obs/b": -1}, {"reward": 2}])
def test_only_observations_are_stacked(wrong):
    """A stack without a frame, or of another key, is refused."""
    with pytest.raises(ValueError, match="must be an observation with at least 1 frame"):
        ReplayBuffer(10, frame_stack=wrong)
