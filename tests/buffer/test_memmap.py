"""Memory-mapped buffers: recovery after kills, attaching, and full disks."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from sheeprl.buffer import ReplayBuffer, memmap, storage
from sheeprl.buffer.episodes import Episodes
from sheeprl.buffer.memmap import NoRoomError
from sheeprl.buffer.priorities import Prioritized
from sheeprl.buffer.samplers import Transitions
from sheeprl.buffer.sequences import Sequences
from sheeprl.buffer.tensordicts import flatten
from tests.helpers import buffer_writer as writer
from tests.helpers.buffer_faults import BEGUN, COMPLETE, NOTHING, STAGES, Killed, add_and_die
from tests.helpers.buffer_model import Model, check_equal, draw_all, encode, encode_transitions, one_of_each, rows_of

ROOT = Path(__file__).parents[2]


def names(buffer):
    """Return the successor of each transition by name."""
    return {int(sample["obs"]): int(sample["next_obs"]) for sample in draw_all(buffer)} if buffer.available else {}


# ------------------------------------------------------------------------------------------------ real kills


@pytest.fixture(scope="module")
def writers():
    """Start the process that forks writers."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.helpers.buffer_writer"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes) as process:
        yield process
        process.stdin.close()


def start_writer(writers, folder, capacity):
    """Start a writer and return the words of its first line."""
    writers.stdin.write(f"{capacity} {folder}\n")
    writers.stdin.flush()
    return writers.stdout.readline().split()


def lines_until_gone(writers):
    """Return the remaining lines of a writer, and wait for its end."""
    return list(iter(writers.stdout.readline, "gone\n"))


def names_of(player, sequence, env):
    """Return the names of the rows of a writer's fragment in one environment."""
    return [1000 * env + 100_000 * player + writer.ROWS * sequence + row for row in range(writer.ROWS)]


def test_acknowledged_fragments_survive_kills(writers, tmp_path):
    """Test repeated kills at random moments, each process attaching the buffer of the previous one."""
    capacity, rng, folder = 1500, random.Random(1), tmp_path / "memory"
    acknowledged = [0] * writer.PLAYERS
    for _ in range(15):
        word, pid = start_writer(writers, folder, capacity)
        assert word == "ready"
        lines = [writers.stdout.readline() for _ in range(rng.randrange(12))]
        time.sleep(rng.random() / 300)
        os.kill(int(pid), signal.SIGKILL)
        for player, sequence in map(str.split, lines + lines_until_gone(writers)):
            assert int(sequence) == acknowledged[int(player)]
            acknowledged[int(player)] += 1
        if not memmap.has_buffer(folder):
            assert not any(acknowledged)
            continue
        buffer = ReplayBuffer.attach(folder, capacity, Sequences(3, crosses=False))
        stored = [buffer.storage.streams.expected_sequence((player, 0)) for player in range(writer.PLAYERS)]
        ahead = [has - printed for has, printed in zip(stored, acknowledged, strict=True)]
        assert sum(ahead) in (0, 1) and min(ahead) == 0
        acknowledged = stored
        check_recovered(buffer, stored)
        buffer.close()
    assert sum(acknowledged) > 30


def check_recovered(buffer, expected):
    """Assert that the newest fragments are stored, and that all rows and sequences are consistent."""
    ring = buffer.storage
    rows = {name: values[: ring.size] for name, values in ring.rows.items()}
    real = ring.is_real(np.arange(ring.size))
    found = set(rows["obs"][real, 0].astype(int).tolist())
    # The newest three fragments of each player are too few to be evicted.
    for player in range(writer.PLAYERS):
        for sequence in range(max(0, expected[player] - 3), expected[player]):
            for env in range(player + 1):
                assert found.issuperset(names_of(player, sequence, env))
    assert (rows["action"][real] == rows["obs"][real, 0] + 0.25).all()
    assert np.allclose(rows["reward"][real], rows["obs"][real, 0] / 10)
    if not buffer.available:
        return
    sample = buffer.sample(1, 500)
    assert (sample["obs"][:, 1:] - sample["obs"][:, :-1] == 1).all()
    assert not sample["is_first"][:, 1:].any()


# ------------------------------------------------------------------------------- kills at every stage of an add


class Twin:
    """A memory-mapped buffer and its model."""

    def __init__(self, folder, sampler=None, **settings):
        """Create an empty buffer and model."""
        self.folder, self.sampler, self.settings = folder, sampler or Transitions(), settings
        self.buffer = ReplayBuffer(13, self.sampler, memmap=folder, **settings)
        self.model = Model(13)
        self.sequences = [0, 0]

    def fragment(self, player, rows=2):
        """Return the next fragment of a player."""
        ends = [None, 1, None, None, "terminated", None, None, 1]
        return self.model.fragment(player + 1, (ends * 3)[: 2 * (rows + 1) * (player + 1)])

    def add(self, player, rows=2):
        """Add the next fragment of a player to buffer and model."""
        fragment = self.fragment(player, rows)
        assert self.buffer.add(encode(fragment), (player, 0), self.sequences[player])
        self.expect(player, fragment)

    def expect(self, player, fragment):
        """Add a fragment to the model."""
        self.model.add(player, fragment)
        self.sequences[player] += 1

    def die(self, player, stage):
        """Interrupt `add` at a stage and attach the buffer. Return True if `add` reached the stage."""
        fragment = self.fragment(player)
        rows, sequence = flatten(encode(fragment)), self.sequences[player]
        died = add_and_die(self.buffer, rows, (player, 0), sequence, stage)
        outcome = STAGES[stage][0] if died else COMPLETE
        if outcome == BEGUN:
            self.model.leave_gap(2 * (player + 1))
        elif outcome != NOTHING:
            self.expect(player, fragment)
        self.buffer = ReplayBuffer.attach(self.folder, 13, self.sampler, **self.settings)
        self.check()
        # The player does not know the outcome, and sends the fragment again.
        added = self.buffer.add_rows(rows, (player, 0), sequence)
        assert added == (self.sequences[player] == sequence)
        if added:
            self.expect(player, fragment)
        self.check()
        return died

    def check(self):
        """Assert that the transitions of the buffer are those of the model."""
        expected = self.model.transitions()
        assert self.buffer.available == len(expected)
        if expected:
            rows = self.buffer.draw(1, 500)
            rows.pop("importance", None)
            found = one_of_each(rows)
            assert found["index"].tolist() == list(expected)
            check_equal(found, encode_transitions(expected.values()))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("filled", [1, 3, 12])
@pytest.mark.parametrize("prioritized", [None, Prioritized()])
def test_kill_at_every_stage_of_an_add(stage, filled, prioritized, tmp_path, monkeypatch):
    """Test that a buffer recovers from a kill at every stage, and accepts the fragment again."""
    monkeypatch.setattr(storage, "RECORDS", 4)
    twin = Twin(tmp_path / "memory", prioritized=prioritized)
    for number in range(filled):
        twin.add(number % 2)
    died = [twin.die(player, stage) for player in (0, 1, 1, 0, 0)]
    if "metadata" not in stage:
        assert all(died)
    for number in range(6):
        twin.add(number % 2)
        twin.check()


@pytest.mark.parametrize("stage", ["metadata", "half the metadata", "metadata replaced"])
def test_kill_while_the_metadata_is_replaced(stage, tmp_path, monkeypatch):
    """Test a kill while a full journal begins again."""
    monkeypatch.setattr(storage, "RECORDS", 4)
    twin = Twin(tmp_path / "memory")
    for number in range(4):
        twin.add(number % 2)
    assert twin.die(0, stage)


@pytest.mark.parametrize("stage", ["metadata", "half the metadata", "metadata replaced", "entry", "rows", "extensions"])
def test_kill_in_the_first_add(stage, tmp_path, monkeypatch):
    """Test the add that creates the journal."""
    twin = Twin(tmp_path / "memory")
    set_arrays = storage.Storage._set_arrays

    def die_later(self, arrays):
        """Arm the stage once there is a journal."""
        set_arrays(self, arrays)
        STAGES[stage][1](self)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(storage.Storage, "_set_arrays", die_later)
        twin.buffer.add(encode(twin.fragment(0)))
    twin.buffer.close()
    twin.buffer = ReplayBuffer.attach(twin.folder, 13)
    if STAGES[stage][0] == BEGUN:
        twin.model.leave_gap(2)
    twin.check()
    twin.add(0)
    twin.check()


@pytest.mark.parametrize("grown", range(8))
@pytest.mark.parametrize("killed", [False, True])
def test_kill_or_full_disk_between_the_bootstrap_rows_of_several_keys(grown, killed, tmp_path, monkeypatch):
    """Test that the pool of bootstrap rows recovers if only some of its arrays have grown."""
    twin, calls = Twin(tmp_path / "memory"), []
    twin.add(0)

    def grow(self, name, array, rows):
        """Fail after some calls."""
        calls.append(name)
        if len(calls) > grown:
            raise Killed if killed else NoRoomError
        return original(self, name, array, rows)

    original = memmap.MemoryMapped.grow
    with monkeypatch.context() as patch, pytest.raises(Killed if killed else NoRoomError):
        patch.setattr(memmap.MemoryMapped, "grow", grow)
        twin.buffer.add(encode(twin.fragment(1)), (1, 0))
    if killed:
        twin.buffer.close()
        twin.buffer = ReplayBuffer.attach(twin.folder, 13)
    twin.check()
    for player in (1, 0, 1):
        twin.add(player)
        twin.check()


def test_kill_before_the_layout_is_written_leaves_no_buffer(tmp_path, monkeypatch):
    """Test that files without a layout are replaced by the next buffer."""

    def die(*args):
        """Raise `Killed`."""
        raise Killed

    buffer = ReplayBuffer(13, memmap=tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(memmap.MemoryMapped, "_write_layout", die)
        buffer.add(rows_of([1, 2]))
    buffer.close()
    with pytest.raises(FileNotFoundError, match="holds no buffer to attach"):
        ReplayBuffer.attach(tmp_path, 13)
    for file in tmp_path.glob("*.bin"):  # as if they held other rows
        file.write_bytes(b"\xff" * file.stat().st_size)
    buffer = ReplayBuffer(13, memmap=tmp_path)
    buffer.add(rows_of([1, 2]))
    buffer.close()
    assert names(ReplayBuffer.attach(tmp_path, 13)) == {1: 2}


def test_episodes_exclude_the_rows_of_a_gap(tmp_path):
    """Test a gap whose rows still have `is_first` set, from the evicted or the interrupted rows."""
    buffer = ReplayBuffer(8, Episodes(), memmap=tmp_path)
    for number in range(2):
        buffer.add(rows_of([4 * number, 1, 2, 3, 4], ends="   t", first="f   "))
    ones = flatten(rows_of([50, 51, 52], first="fff"))
    add_and_die(buffer, ones, (1, 0), 0, "links")
    buffer = ReplayBuffer.attach(tmp_path, 8, Episodes())
    assert buffer.available == 1
    assert buffer.sample(1, 5)["obs"][:, :, 0, 0].tolist() == [[4, 1, 2, 3]] * 5


@pytest.mark.parametrize("way", ["load", "load_state_dict"])
@pytest.mark.parametrize("used", [False, True])
def test_kill_while_loading_leaves_an_empty_buffer(way, used, tmp_path, monkeypatch):
    """Test that the rows of the two buffers are not mixed."""
    source = ReplayBuffer(8)
    source.add(rows_of([10, 11, 12]))
    source.save(tmp_path / "save")
    buffer = ReplayBuffer(8, memmap=tmp_path / "memory")
    if used:
        buffer.add(rows_of([0, 1, 2, 3]))

    def die(*args):
        """Raise `Killed`."""
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(storage.Storage, "restored", die)
        getattr(buffer, way)(tmp_path / "save" if way == "load" else source.state_dict())
    buffer.close()
    buffer = ReplayBuffer.attach(tmp_path / "memory", 8)
    assert len(buffer) == 0 and not buffer.available
    assert buffer.add(rows_of([20, 21]), (0, 0), 0)
    assert names(buffer) == {20: 21}
    buffer.load(tmp_path / "save")
    assert names(buffer) == {10: 11, 11: 12}
    buffer.close()
    assert names(ReplayBuffer.attach(tmp_path / "memory", 8)) == {10: 11, 11: 12}


def test_full_disk_for_a_new_player_does_not_affect_the_others(tmp_path, monkeypatch):
    """Test that its streams get no ids, which the journal would not contain."""
    buffer = ReplayBuffer(20, memmap=tmp_path)
    buffer.add(rows_of([0, 1, 2]), (0, 0))

    def fail(self, described):
        """Raise an error of the operating system."""
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(memmap.MemoryMapped, "_reserve", fail)
        with pytest.raises(NoRoomError, match=r"needs \d+ B in"):
            buffer.add(rows_of([50, 51], envs=2), (1, 0))
    assert len(buffer) == 2
    buffer.add(rows_of([60, 61], envs=3), (2, 0))
    buffer.add(rows_of([50, 51], envs=2), (1, 0), 0)
    before = names(buffer)
    assert before == {0: 1, 1: 2, 60: 61, 1060: 1061, 2060: 2061, 50: 51, 1050: 1051}
    buffer.close()
    buffer = ReplayBuffer.attach(tmp_path, 20)
    assert names(buffer) == before
    buffer.add(rows_of([51, 52], envs=2), (1, 0), 1)
    assert names(buffer) == before | {51: 52, 1051: 1052}


# ---------------------------------------------------------------------------------------------- attaching


def test_second_process_is_refused(writers, tmp_path):
    """Test that the lock keeps other processes out until `close`."""
    buffer = ReplayBuffer(2000, memmap=tmp_path)
    buffer.add(rows_of([0, 1]))
    for attempt in (
        lambda: ReplayBuffer.attach(tmp_path, 2000),
        lambda: ReplayBuffer.attach(tmp_path, 2000, Sequences(2)),
    ):
        with pytest.raises(BlockingIOError, match="in use by another process"):
            attempt()
    assert memmap.in_use(tmp_path)
    assert start_writer(writers, tmp_path, 2000) == ["BlockingIOError"]
    assert lines_until_gone(writers) == []
    buffer.close()
    assert not memmap.in_use(tmp_path)
    assert names(ReplayBuffer.attach(tmp_path, 2000)) == {0: 1}


def test_second_new_buffer_in_a_folder_is_refused(tmp_path):
    """Test that the lock also protects an empty buffer."""
    buffer = ReplayBuffer(20, memmap=tmp_path)
    with pytest.raises(BlockingIOError):
        ReplayBuffer(20, memmap=tmp_path)
    buffer.add(rows_of([0, 1]))
    assert names(buffer) == {0: 1}


def test_new_buffer_does_not_overwrite_another_one(tmp_path):
    """Test that the error unlocks the folder and leaves the buffer intact."""
    buffer = ReplayBuffer(20, memmap=tmp_path)
    buffer.add(rows_of([0, 1]))
    buffer.close()
    try:
        ReplayBuffer(20, memmap=tmp_path)
    except FileExistsError as error:
        assert "holds a buffer already" in str(error)
        assert names(ReplayBuffer.attach(tmp_path, 20)) == {0: 1}  # while the error keeps its traceback
    else:
        pytest.fail("it was overwritten")


def test_attach_without_a_buffer_raises(tmp_path):
    """Test that the error creates no folder."""
    try:
        ReplayBuffer.attach(tmp_path / "none", 20)
    except FileNotFoundError as error:
        assert "holds no buffer to attach" in str(error) and not (tmp_path / "none").exists()
        ReplayBuffer(20, memmap=tmp_path / "none").add(rows_of([0, 1]))
    else:
        pytest.fail("nothing was attached")


def test_attach_with_another_capacity_raises_and_unlocks(tmp_path):
    """Test that the buffer can be attached with its capacity afterwards."""
    buffer = ReplayBuffer(20, memmap=tmp_path)
    buffer.add(rows_of([0, 1]))
    buffer.close()
    try:
        ReplayBuffer.attach(tmp_path, 21)
    except ValueError as error:
        assert "capacity=21 but" in str(error) and "holds a buffer of 20 rows" in str(error)
        assert names(ReplayBuffer.attach(tmp_path, 20)) == {0: 1}


@pytest.mark.parametrize(
    "how", [{"prioritized": Prioritized()}, {"sampler": Sequences(2, crosses=False)}], ids=["priority", "age"]
)
def test_attach_with_a_missing_extension_raises(how, tmp_path):
    """Test sampling that needs arrays which the buffer does not have."""
    buffer = ReplayBuffer(20, memmap=tmp_path)
    buffer.add(rows_of([0, 1]))
    buffer.close()
    with pytest.raises(ValueError, match=r"created without the array '(priority|age)'"):
        ReplayBuffer.attach(tmp_path, 20, **how)
    assert names(ReplayBuffer.attach(tmp_path, 20)) == {0: 1}


def test_priorities_that_were_not_updated_are_cleared(tmp_path):
    """Test a buffer that was attached without priorities in between."""
    buffer = ReplayBuffer(4, memmap=tmp_path, prioritized=Prioritized(1.0))
    buffer.add(rows_of(range(5)))
    buffer.update_priorities(np.arange(4), np.full(4, 7.0))
    buffer.close()
    buffer = ReplayBuffer.attach(tmp_path, 4)
    buffer.add(rows_of([10, 11, 12]), (1, 0))
    buffer.close()
    buffer = ReplayBuffer.attach(tmp_path, 4, prioritized=Prioritized(1.0))
    assert buffer.total_priority == 4.0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"checksum": 1, "text": "{}"}'])
def test_damaged_metadata_raises(text, tmp_path):
    """Test an invalid and a missing metadata file."""
    buffer = ReplayBuffer(4, memmap=tmp_path)
    buffer.add(rows_of([0, 1]))
    buffer.close()
    (tmp_path / "book.json").write_text(text)
    with pytest.raises(ValueError, match=r"book\.json is damaged"):
        ReplayBuffer.attach(tmp_path, 4)
    (tmp_path / "book.json").unlink()
    with pytest.raises(ValueError, match=r"book\.json is damaged"):  # not treated as an empty buffer
        ReplayBuffer.attach(tmp_path, 4)


def test_save_of_a_mapped_buffer_loads_anywhere(tmp_path):
    """Test loading into a buffer in memory and into a memory-mapped one."""
    buffer = ReplayBuffer(6, memmap=tmp_path / "memory", prioritized=Prioritized(0.5))
    buffer.add(rows_of(range(6)))
    buffer.add(rows_of(range(5, 9)))
    buffer.save(tmp_path / "save")
    expected = buffer.sample(3, 5)["index"].tolist()
    for target in (None, tmp_path / "other"):
        restored = ReplayBuffer(6, memmap=target, prioritized=Prioritized(0.5), seed=9)
        restored.load(tmp_path / "save")
        assert restored.sample(3, 5)["index"].tolist() == expected


# -------------------------------------------------------------------------------------------------- no room

Usage = namedtuple("Usage", "total used free")


def test_full_disk_raises_before_files_are_created(tmp_path, monkeypatch):
    """Test that the add succeeds once there is disk space."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 10**6 - 1000, 1000))
    buffer = ReplayBuffer(100_000, memmap=tmp_path / "memory")
    with pytest.raises(NoRoomError, match=r"needs .* MB in .*memory, but only 1 KB are free"):
        buffer.add(rows_of([0, 1]))
    assert not [path.name for path in (tmp_path / "memory").iterdir() if path.name != "lock"]
    monkeypatch.undo()
    assert buffer.add(rows_of([0, 1]), sequence=0)
    assert names(buffer) == {0: 1}


def test_disk_that_fills_up_during_allocation_leaves_no_files(tmp_path, monkeypatch):
    """Test that the files created before the error are removed."""
    reserved = []

    def fallocate(descriptor, begin, size):
        """Fail at the fifth file."""
        reserved.append(size)
        if len(reserved) == 5:
            raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    buffer = ReplayBuffer(100, memmap=tmp_path)
    with pytest.raises(NoRoomError, match="free disk space"):
        buffer.add(rows_of([0, 1]))
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    monkeypatch.undo()
    assert buffer.add(rows_of([0, 1]), sequence=0)
    assert names(buffer) == {0: 1}


def test_buffer_larger_than_the_memory_raises():
    """Test that the error names the required memory and leaves the buffer empty."""
    buffer = ReplayBuffer(2**45)
    with pytest.raises(NoRoomError, match="TB of memory, but this machine has"):
        buffer.add(rows_of([0, 1]))
    assert len(buffer) == 0 and not buffer.available


def test_disk_space_is_reserved_at_once(tmp_path):
    """Test that the files are not sparse."""
    buffer = ReplayBuffer(10_000, memmap=tmp_path)
    buffer.add(rows_of([0, 1]))
    reserved = sum(path.stat().st_blocks * 512 for path in tmp_path.glob("*.bin"))
    assert reserved >= 10_000 * buffer.storage.row_bytes


def test_the_layout_of_the_files_is_unchanged(tmp_path):
    """The names and dtypes in the folder stay the same, so that buffers of older versions can be attached."""
    buffer = ReplayBuffer(8, memmap=tmp_path)
    buffer.add(rows_of([1, 2]))
    buffer.close()
    layout = json.loads((tmp_path / "layout.json").read_text())
    assert {name.partition(" ")[0] for name in layout} == {"row", "index", "tail", "journal"}
    names = [name for name, _ in layout["journal"]["dtype"]]
    assert names == ["epoch", "total", "player", "incarnation", "sequence", "rows", "envs", "anew", "whole", "checksum"]
    assert (tmp_path / "book.json").exists()
