"""A replay that is taken over in another number of shards: the same rows, streams, priorities and counts."""

import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sheeprl.actors.messages import Fragment
from sheeprl.actors.replay import Replay
from sheeprl.buffer import ReplayBuffer
from sheeprl.buffer.priorities import Prioritized
from sheeprl.buffer.reshard import PIECE_ROWS, Layout, layout_of
from sheeprl.buffer.samplers import Transitions
from sheeprl.buffer.saving import DamagedSaveError
from sheeprl.buffer.sequences import Sequences

PRIORITIZED = Prioritized(alpha=1.0)


class Source:
    """Plays fragments whose observations number the rows of each environment."""

    def __init__(self):
        self.incarnations = defaultdict(int)
        self.sequences = defaultdict(int)
        self.rows = defaultdict(int)

    def play(self, player, rows, envs, skip=False, anew=False):
        self.incarnations[player] += anew
        key = player, self.incarnations[player]
        if skip:  # a fragment is lost
            self.sequences[key] += 1
            self.rows[key] += rows
        first = self.rows[key]
        self.rows[key] += rows
        self.sequences[key] += 1
        count = np.arange(first, first + rows + 1)
        shape = (rows + 1, envs)
        obs = np.zeros((*shape, 4))
        obs[..., 0], obs[..., 1] = key
        obs[..., 2], obs[..., 3] = np.arange(envs), count[:, None]
        ends = np.repeat(count[:, None] % 5 == 4, envs, 1)
        flags = {"terminated": ends, "truncated": np.zeros(shape, bool), "is_first": np.roll(ends, 1, 0)}
        rest = {"action": np.zeros(shape), "reward": np.zeros(shape, np.float32), **flags}
        return Fragment(player, key[1], self.sequences[key] - 1, {"obs": obs, **rest})


def make(shards, capacity, sampler=None, prioritized=None, folder=None):
    return [
        Replay(
            ReplayBuffer(
                capacity,
                sampler or Transitions(),
                seed=number,
                prioritized=prioritized,
                memmap=folder / f"shard_{number}" if folder else None,
            ),
            4,
            number,
            shards,
        )
        for number in range(shards)
    ]


def content(replays):
    """Of every row its transition (to which row, or to the end) and its priority, by the row's name."""
    found = {}
    for replay in replays:
        storage = replay.buffer.storage
        slots = np.arange(storage.size)
        slots = slots[storage.is_real(slots)] if storage.size else slots
        if not len(slots):
            continue
        obs, after = storage.get("obs", slots), storage.get("obs", storage.follow(slots))
        output = storage.is_transition(slots)
        leaves = replay.buffer.priorities.tree.leaves[slots] if replay.buffer.priorities else np.zeros(len(slots))
        for row, then, does, leaf in zip(obs, after, output, leaves, strict=True):
            assert int(row[0]) % replay.shards == replay.shard
            name = tuple(row.astype(int))
            assert name not in found
            found[name] = tuple(then.astype(int)), bool(does), float(leaf)
    return found


def moved(saved, replays, shards, capacity, **options):
    """The same replay in other shards."""
    for replay in replays:
        replay.save(str(saved))
    others = make(shards, capacity, **options)
    for replay in others:
        replay.load(str(saved))
    return others


steps = st.lists(
    st.tuples(st.integers(0, 4), st.integers(1, 9), st.sampled_from(["", "", "", "skip", "anew"])), max_size=30
)


@settings(max_examples=150, deadline=None)
@given(steps, st.integers(1, 4), st.integers(1, 4), st.booleans(), st.sampled_from([40, 1000]))
def test_every_row_is_there_as_it_was(played, before, after, prioritized, capacity):
    option = {"prioritized": PRIORITIZED if prioritized else None}
    source, replays = Source(), make(before, capacity, **option)
    rng = np.random.default_rng(0)
    for player, rows, what in played:
        fragment = source.play(player, rows, envs=1 + player % 2, skip=what == "skip", anew=what == "anew")
        buffer = replays[player % before].buffer
        replays[player % before].add(fragment)
        if prioritized:
            buffer.update_priorities(np.arange(buffer.storage.total), rng.uniform(0.1, 5.0, buffer.storage.total))
    was = content(replays)
    with tempfile.TemporaryDirectory() as folder:
        others = moved(Path(folder) / "saved", replays, after, 4000, **option)
    now = content(others)
    assert now.items() <= was.items()
    # Of the oldest rows that are left of a player, up to one of each environment is given up.
    for player, life in {name[:2] for name in was}:
        lacking = [name for name in was if name[:2] == (player, life) and name not in now]
        if before == after and capacity == 4000:
            assert not lacking
        assert len(lacking) <= player % 2 * 4  # streams after a gap are others
        if lacking:
            kept = [name[3] for name in now if name[:2] == (player, life)]
            assert not kept or min(kept) >= min(name[3] for name in lacking)
    assert sum(replay.status().added for replay in others) == sum(replay.status().added for replay in replays)
    assert counts_of(others) == counts_of(replays)
    check_going_on(source, others, after)


def counts_of(replays):
    return sum((Counter(vars(replay.buffer.counts)) for replay in replays), start=Counter())


def check_going_on(source, replays, shards):
    """What came before isn't taken again, and each player's stream goes on."""
    for player, incarnation in list(source.incarnations.items()):
        replay, key = replays[player % shards], (player, incarnation)
        if key not in replay.buffer.storage.streams.groups:
            continue
        size, fragment = len(replay.buffer), source.play(player, 1, 1 + player % 2)
        replay.add(Fragment(*key, fragment.sequence - 1, fragment.rows))
        assert len(replay.buffer) == size
        replay.add(fragment)
        first = tuple(fragment.rows["obs"][0, 0].astype(int))
        assert first in [then for then, _, _ in content(replays).values()]  # what was before is joined to it


def test_oldest_rows_go_first_when_there_is_less_room(tmp_path):
    source, replays = Source(), make(2, 1000)
    for _ in range(10):
        for player in range(2):
            replays[player].add(source.play(player, 10, 1))
    (one,) = moved(tmp_path / "saved", replays, 1, 100)
    kept = content([one])
    assert len(kept) == 100
    oldest = [min(name[3] for name in kept if name[0] == player) for player in range(2)]
    assert all(50 - PIECE_ROWS / 2 <= first <= 50 + PIECE_ROWS / 2 for first in oldest)  # of 100 each


def test_sequences_can_be_drawn_across_what_were_fragments(tmp_path):
    source, replays = Source(), make(2, 1000, Sequences(20))
    for _ in range(30):
        for player in range(4):
            replays[player % 2].add(source.play(player, 7, 2))
    others = moved(tmp_path / "saved", replays, 3, 1000, sampler=Sequences(20))
    assert sum(other.buffer.available for other in others) == sum(replay.buffer.available for replay in replays)
    for other in others:
        _, rows = other.sample_part(50, 0.0)
        assert (np.diff(rows["obs"][0][..., 3], axis=0) == 1).all()


def test_mapped_shards_take_over_and_are_attached(tmp_path):
    source, replays = Source(), make(1, 500)
    for _ in range(20):
        replays[0].add(source.play(0, 5, 2))
        replays[0].add(source.play(1, 5, 1))
    others = moved(tmp_path / "saved", replays, 2, 400, folder=tmp_path / "mapped")
    was, added = content(others), [other.status().added for other in others]
    assert was == content(replays)
    for other in others:
        other.buffer.close()
    again = [
        Replay(ReplayBuffer.attach(tmp_path / "mapped" / f"shard_{number}", 400), 4, number, 2) for number in range(2)
    ]
    assert content(again) == was and [each.status().added for each in again] == added


def test_loading_twice_is_loading_once(tmp_path):
    source, replays = Source(), make(2, 500)
    for _ in range(20):
        replays[0].add(source.play(0, 5, 2))
    (one,) = moved(tmp_path / "saved", replays, 1, 500)
    was, added = content([one]), one.status().added
    one.load(str(tmp_path / "saved"))
    assert content([one]) == was and one.status().added == added


def test_a_damaged_shard_is_named(tmp_path):
    source, replays = Source(), make(2, 500)
    for player in range(2):
        replays[player].add(source.play(player, 5, 2))
    for replay in replays:
        replay.save(str(tmp_path / "saved"))
    assert layout_of(tmp_path / "saved") == Layout(2, 500)
    victim = next((tmp_path / "saved" / "shard_1").glob("*.bin"))
    victim.write_bytes(b"\0" * victim.stat().st_size)
    with pytest.raises(DamagedSaveError, match=str(victim)):
        make(1, 500)[0].load(str(tmp_path / "saved"))
    with pytest.raises(DamagedSaveError, match="holds no shard"):
        make(1, 500)[0].load(str(tmp_path / "nothing"))
