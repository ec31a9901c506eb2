"""Loading a replay with another number of shards: the same rows, streams, priorities and counts."""

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
    """Source of fragments whose observations number the rows of each environment."""

    def __init__(self):
        """Start without fragments."""
        self.incarnations = defaultdict(int)
        self.sequences = defaultdict(int)
        self.rows = defaultdict(int)

    def play(self, player, rows, envs, skip=False, restart=False):
        """Return the next fragment of a player, possibly after a lost one or a restart."""
        self.incarnations[player] += restart
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
    """Return new shards."""
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


def content(replays, any_shard=False):
    """Return next row, is_transition and priority of every row by name."""
    found = {}
    for replay in replays:
        storage = replay.buffer.storage
        slots = np.arange(storage.size)
        slots = slots[storage.is_real(slots)] if storage.size else slots
        if not len(slots):
            continue
        obs, after = storage.get("obs", slots), storage.get("obs", storage.follow(slots))
        is_transition = storage.is_transition(slots)
        leaves = replay.buffer.priorities.tree.leaves[slots] if replay.buffer.priorities else np.zeros(len(slots))
        for row, next_row, flag, leaf in zip(obs, after, is_transition, leaves, strict=True):
            assert any_shard or int(row[0]) % replay.shards == replay.shard
            name = tuple(row.astype(int))
            assert name not in found
            found[name] = tuple(next_row.astype(int)), bool(flag), float(leaf)
    return found


def reshard(saved, replays, shards, capacity, **options):
    """Return new shards that loaded the saved replay."""
    for replay in replays:
        replay.save(str(saved))
    resharded = make(shards, capacity, **options)
    for replay in resharded:
        replay.load(str(saved))
    return resharded


steps = st.lists(
    st.tuples(st.integers(0, 4), st.integers(1, 9), st.sampled_from(["", "", "", "skip", "restart"])), max_size=30
)


@settings(max_examples=150, deadline=None)
@given(steps, st.integers(1, 4), st.integers(1, 4), st.booleans(), st.sampled_from([40, 1000]))
def test_every_row_is_loaded_unchanged(played, before, after, prioritized, capacity):
    """Test rows, priorities, counts and streams for random fragments and layouts."""
    option = {"prioritized": PRIORITIZED if prioritized else None}
    source, replays = Source(), make(before, capacity, **option)
    rng = np.random.default_rng(0)
    for player, rows, what in played:
        fragment = source.play(player, rows, envs=1 + player % 2, skip=what == "skip", restart=what == "restart")
        buffer = replays[player % before].buffer
        replays[player % before].add(fragment)
        if prioritized:
            buffer.update_priorities(np.arange(buffer.storage.total), rng.uniform(0.1, 5.0, buffer.storage.total))
    old = content(replays)
    with tempfile.TemporaryDirectory() as folder:
        resharded = reshard(Path(folder) / "saved", replays, after, 4000, **option)
    new = content(resharded)
    assert new.items() <= old.items()
    # Up to one of the oldest rows of each environment of a player is dropped.
    for key in {name[:2] for name in old}:
        dropped = [name for name in old if name[:2] == key and name not in new]
        if before == after and capacity == 4000:
            assert not dropped
        assert len(dropped) <= key[0] % 2 * 4  # lost fragments begin new streams
        if dropped:
            loaded = [name[3] for name in new if name[:2] == key]
            assert not loaded or min(loaded) >= min(name[3] for name in dropped)
    assert sum(replay.status().added for replay in resharded) == sum(replay.status().added for replay in replays)
    assert counts_of(resharded) == counts_of(replays)
    check_streams_continue(source, resharded, after)


def counts_of(replays):
    """Return the summed counts of all shards."""
    return sum((Counter(vars(replay.buffer.counts)) for replay in replays), start=Counter())


def check_streams_continue(source, replays, shards):
    """Assert that old fragments are ignored and new ones continue each player's streams."""
    for player, incarnation in list(source.incarnations.items()):
        replay, key = replays[player % shards], (player, incarnation)
        if key not in replay.buffer.storage.streams.groups:
            continue
        size, fragment = len(replay.buffer), source.play(player, 1, 1 + player % 2)
        replay.add(Fragment(*key, fragment.sequence - 1, fragment.rows))
        assert len(replay.buffer) == size
        replay.add(fragment)
        first = tuple(fragment.rows["obs"][0, 0].astype(int))
        assert first in [next_row for next_row, _, _ in content(replays).values()]  # linked to the row before


def test_smaller_capacity_drops_the_oldest_rows(tmp_path):
    """Test that all players lose rows of the same age."""
    source, replays = Source(), make(2, 1000)
    for _ in range(10):
        for player in range(2):
            replays[player].add(source.play(player, 10, 1))
    (one,) = reshard(tmp_path / "saved", replays, 1, 100)
    loaded = content([one])
    assert len(loaded) == 100
    oldest = [min(name[3] for name in loaded if name[0] == player) for player in range(2)]
    assert all(50 - PIECE_ROWS / 2 <= first <= 50 + PIECE_ROWS / 2 for first in oldest)  # of 100 each


def test_sequences_cross_the_saved_fragments(tmp_path):
    """Test the number and the rows of sequences."""
    source, replays = Source(), make(2, 1000, Sequences(20))
    for _ in range(30):
        for player in range(4):
            replays[player % 2].add(source.play(player, 7, 2))
    resharded = reshard(tmp_path / "saved", replays, 3, 1000, sampler=Sequences(20))
    assert sum(replay.buffer.available for replay in resharded) == sum(replay.buffer.available for replay in replays)
    for replay in resharded:
        _, rows = replay.sample_part(50, 0.0)
        assert (np.diff(rows["obs"][0][..., 3], axis=0) == 1).all()


def test_mapped_shards_load_and_are_attached(tmp_path):
    """Test that memory-mapped shards contain the loaded rows after `attach`."""
    source, replays = Source(), make(1, 500)
    for _ in range(20):
        replays[0].add(source.play(0, 5, 2))
        replays[0].add(source.play(1, 5, 1))
    resharded = reshard(tmp_path / "saved", replays, 2, 400, folder=tmp_path / "mapped")
    expected, added = content(resharded), [replay.status().added for replay in resharded]
    assert expected == content(replays)
    for replay in resharded:
        replay.buffer.close()
    attached = [
        Replay(ReplayBuffer.attach(tmp_path / "mapped" / f"shard_{number}", 400), 4, number, 2) for number in range(2)
    ]
    assert content(attached) == expected and [replay.status().added for replay in attached] == added


def test_loading_twice_equals_loading_once(tmp_path):
    """Test that a load replaces the rows of the buffer."""
    source, replays = Source(), make(2, 500)
    for _ in range(20):
        replays[0].add(source.play(0, 5, 2))
    (one,) = reshard(tmp_path / "saved", replays, 1, 500)
    expected, added = content([one]), one.status().added
    one.load(str(tmp_path / "saved"))
    assert content([one]) == expected and one.status().added == added


def test_damaged_shard_raises(tmp_path):
    """Test that the error names the file."""
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
    with pytest.raises(DamagedSaveError, match="contains no shard"):
        make(1, 500)[0].load(str(tmp_path / "missing"))


@settings(max_examples=80, deadline=None)
@given(steps, st.integers(1, 3), st.integers(1, 3), st.booleans(), st.booleans())
def test_a_run_begins_with_the_rows_of_another_one(played, before, after, prioritized, was_prioritized):
    """All rows are there, no player continues their streams, and nothing else of the other run is there."""
    source = Source()
    replays = make(before, 1000, prioritized=PRIORITIZED if was_prioritized else None)
    for player, rows, what in played:
        fragment = source.play(player, rows, envs=1 + player % 2, skip=what == "skip", restart=what == "restart")
        replays[player % before].add(fragment)
    old = content(replays)
    with tempfile.TemporaryDirectory() as folder:
        for replay in replays:
            replay.save(str(Path(folder) / "saved"))
        begun = make(after, 4000, prioritized=PRIORITIZED if prioritized else None)
        for replay in begun:
            replay.add_initial(str(Path(folder) / "saved"))
    new = content(begun, any_shard=True)
    assert {name: found[:2] for name, found in new.items()} == {name: found[:2] for name, found in old.items()}
    assert not prioritized or all(leaf > 0 for _, flag, leaf in new.values() if flag)
    assert sum(replay.status().added for replay in begun) == len(old)
    assert +counts_of(begun) == +Counter(initial_rows=len(old))
    sizes = [len(replay.buffer) for replay in begun]
    assert max(sizes) - min(sizes) <= 2 * sum(len(replay.buffer.storage.streams.all_groups()) for replay in replays)
    other = Source()
    for player in range(5):
        fragment = other.play(player, 3, 3)
        fragment.rows["obs"][..., 3] += 10**6
        begun[player % after].add(fragment)
    assert sum(map(len, (replay.buffer for replay in begun))) == len(old) + 5 * 9
    assert {name: found[:2] for name, found in content(begun, any_shard=True).items() if name in old} == {
        name: found[:2] for name, found in old.items()
    }


def test_a_shard_with_rows_begins_once(tmp_path):
    """A shard that has recovered its rows keeps them."""
    source, (replay,) = Source(), make(1, 500)
    replay.add(source.play(0, 5, 2))
    replay.save(str(tmp_path / "saved"))
    assert replay.add_initial(str(tmp_path / "saved")).size == 10


def test_a_shard_with_a_part_of_the_initial_rows_begins_anew(tmp_path):
    """The successor of a shard that was lost while it began has all rows once."""
    source, (replay,) = Source(), make(1, 500)
    replay.add(source.play(0, 5, 2))
    replay.save(str(tmp_path / "saved"))
    (other,) = make(1, 500)
    for _ in range(2):
        assert other.add_initial(str(tmp_path / "saved")).added == 10
    assert other.restore(None, str(tmp_path / "saved")).size == 10


def test_the_newest_rows_of_another_run_fill_a_smaller_buffer(tmp_path):
    """Sequences are parts of one run, and the newest samples are those of this run."""
    source, (one,) = Source(), make(1, 1000, Sequences(20))
    for _ in range(30):
        one.add(source.play(0, 7, 2))
    one.save(str(tmp_path / "saved"))
    buffer = ReplayBuffer(200, Sequences(20), online_fraction=1.0)
    replay = Replay(buffer, 4)
    replay.add_initial(str(tmp_path / "saved"))
    assert len(buffer) == 200 and min(name[3] for name in content([replay])) >= 210 - 100 - PIECE_ROWS
    other = Source()
    for _ in range(4):
        fragment = other.play(0, 7, 2)
        fragment.rows["obs"][..., 3] += 10**6
        replay.add(fragment)
    _, rows = replay.sample_part(30, 0.0)
    assert (np.diff(rows["obs"][0][..., 3], axis=0) == 1).all()
    assert (rows["obs"][0][0, :2, 3] >= 10**6).all()  # each new sequence once, then any
