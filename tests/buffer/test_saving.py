"""Saving and loading: equal content, errors that name the file, and hard links for unchanged chunks."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sheeprl.buffer import ReplayBuffer, dirty, places, saving
from sheeprl.buffer.episodes import Episodes
from sheeprl.buffer.memmap import NoRoomError
from sheeprl.buffer.priorities import Prioritized
from sheeprl.buffer.samplers import NStep, Rollout, Transitions
from sheeprl.buffer.saving import DamagedSaveError
from sheeprl.buffer.sequences import Sequences
from tests.helpers.buffer_model import draw_all, rows_of

WAYS = {
    "transitions": (Transitions(), {}),
    "n-step": (NStep(3, 0.9), {}),
    "sequences": (Sequences(3), {}),
    "sequences with context": (Sequences(3, context=True), {}),
    "sequences inside episodes": (Sequences(2, crosses=False), {}),
    "episodes": (Episodes(), {}),
    "parts of episodes": (Episodes(2, prioritize_ends=True), {}),
    "prioritized": (Transitions(), {"prioritized": Prioritized()}),
    "prioritized sequences": (Sequences(2, context=True), {"prioritized": Prioritized()}),
    "newest": (Transitions(), {"online_fraction": 0.5}),
    "newest sequences": (Sequences(2), {"online_fraction": 0.5}),
}


@pytest.fixture
def small_chunks(monkeypatch):
    """Save in chunks of 16 bytes."""
    monkeypatch.setattr(dirty, "CHUNK_BYTES", 16)


def filled(capacity=20, fragments=6, **settings):
    """Return a buffer with some fragments."""
    buffer = ReplayBuffer(capacity, **settings)
    for number in range(fragments):
        add(buffer, number)
    return buffer


def add(buffer, number):
    """Add a fragment by its number."""
    begin = 5 * (number // 2)
    buffer.add(rows_of(range(begin, begin + 6), ends="  t  x" if number % 3 else "", first="f  f"), (number % 2, 0))


def bytes_in(folder):
    """Return the size of all chunks in a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.bin"))


def same(one, other):
    """Return True if two samples have the same values."""
    return all((one[key] == other[key]).all() for key in one.keys(include_nested=True, leaves_only=True))


# ------------------------------------------------------------------------------------------------ continuing


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mapped", [False, True])
def test_restored_buffer_draws_the_same_samples(way, mapped, tmp_path, small_chunks):
    """Test `load` and `load_state_dict` for every sampler, in memory and memory-mapped."""
    sampler, settings = WAYS[way]

    def make(seed):
        """Return a new buffer."""
        memmap = tmp_path / f"memory_{seed}" if mapped else None
        return ReplayBuffer(20, sampler, seed, memmap=memmap, **settings)

    buffer, from_disk, from_state = make(1), make(2), make(3)
    for number in range(6):
        add(buffer, number)
        add(from_disk, number + 3)  # the load replaces its rows
    if buffer.priorities:
        index = buffer.sample(2, 2)["index"]
        index = index[:, -1] if index.ndim == 3 else index
        buffer.update_priorities(index, np.random.default_rng(0).random((2, 2)) * 5)
    buffer.sample(2, 2)
    buffer.save(tmp_path / "save")
    from_disk.load(tmp_path / "save")
    from_state.load_state_dict(buffer.state_dict())
    for number in range(6, 10):
        drawn = buffer.sample(2, 4, progress=0.5)
        assert same(drawn, from_disk.sample(2, 4, progress=0.5)) and same(drawn, from_state.sample(2, 4, progress=0.5))
        for each in (buffer, from_disk, from_state):
            add(each, number)
            if each.priorities:
                index = drawn["index"][:, -1] if drawn["index"].ndim == 3 else drawn["index"]
                each.update_priorities(index, index.numpy() % 7 + 0.5)
    assert buffer.counts == from_disk.counts == from_state.counts


def test_state_dict_is_a_copy():
    """Test that adds to its source or to a restored buffer do not change it."""
    buffer = filled()
    state = buffer.state_dict()
    names = {int(sample["obs"]) for sample in draw_all(buffer)}
    for number in range(6, 12):
        add(buffer, number)
    restored = ReplayBuffer(20)
    restored.load_state_dict(state)
    add(restored, 6)
    reloaded = ReplayBuffer(20)
    reloaded.load_state_dict(state)
    assert {int(sample["obs"]) for sample in draw_all(reloaded)} == names


def test_empty_buffer_is_saved_and_loaded(tmp_path):
    """Test loading into new and into used buffers."""
    empty = ReplayBuffer(20, seed=3)
    assert empty.save(tmp_path / "save") == 0
    fresh, used = ReplayBuffer(20), filled()
    for buffer in (fresh, used):
        buffer.load(tmp_path / "save")
        assert len(buffer) == 0 and not buffer.available
        assert buffer.add(rows_of([1, 2]), (0, 0), 0)
        assert [int(sample["obs"]) for sample in draw_all(buffer)] == [1]
    used.load_state_dict(empty.state_dict())
    assert len(used) == 0 and not used.available


def test_save_without_priorities_loads_with_the_highest_priority(tmp_path):
    """Test a uniform save in a prioritized buffer."""
    filled().save(tmp_path / "save")
    buffer = ReplayBuffer(20, prioritized=Prioritized(1.0))
    buffer.load(tmp_path / "save")
    assert buffer.total_priority == buffer.available
    assert buffer.sample(5, 2)["importance"].eq(1).all()


def test_save_with_priorities_loads_into_a_uniform_buffer(tmp_path):
    """Test that the priorities are ignored."""
    buffer = filled(prioritized=Prioritized(1.0))
    buffer.save(tmp_path / "save")
    uniform = ReplayBuffer(20)
    uniform.load(tmp_path / "save")
    assert [int(each["index"]) for each in draw_all(uniform)] == [int(each["index"]) for each in draw_all(buffer)]


def test_loading_other_rows_raises(tmp_path):
    """Test that the buffer is unchanged."""
    filled().save(tmp_path / "save")
    buffer = ReplayBuffer(20)
    buffer.add(rows_of([1, 2]).set("more", torch.zeros(2, 1)))
    for load in (lambda: buffer.load(tmp_path / "save"), lambda: buffer.load_state_dict(filled().state_dict())):
        with pytest.raises(ValueError, match="other keys, shapes or dtypes"):
            load()
    assert len(buffer) == 1 and [int(sample["obs"]) for sample in draw_all(buffer)] == [1]


# ---------------------------------------------------------------------------------------------------- chunks


def test_unchanged_chunks_are_linked(tmp_path, small_chunks):
    """Test the bytes written after adds and writes, and that each save is independent."""
    buffer = filled(capacity=64)
    total = buffer.save(tmp_path / "1")
    assert total == bytes_in(tmp_path / "1")
    bootstrap_bytes = sum(values.nbytes for name, values in buffer.storage.arrays().items() if name.startswith("tail "))
    assert buffer.save(tmp_path / "2") == bootstrap_bytes
    links = [path.stat().st_nlink for path in (tmp_path / "2").glob("*.bin")]
    assert links.count(2) > 50 and links.count(1) == len(buffer.storage.bootstrap_rows)
    add(buffer, 6)
    written = buffer.save(tmp_path / "3")
    assert bootstrap_bytes < written < total / 2
    buffer.write_back(np.array([1]), rows_of([77]).select("action")[0])
    assert buffer.save(tmp_path / "4") == bootstrap_bytes + 16  # one chunk
    before = {path.name: path.read_bytes() for path in (tmp_path / "2").iterdir()}
    shutil.rmtree(tmp_path / "1")
    shutil.rmtree(tmp_path / "3")
    assert {path.name: path.read_bytes() for path in (tmp_path / "2").iterdir()} == before
    restored = ReplayBuffer(64)
    restored.load(tmp_path / "4")
    assert same(buffer.sample(5, 9), restored.sample(5, 9))
    assert restored.save(tmp_path / "5") == bootstrap_bytes  # also after a load


def test_chunks_with_changed_links_are_written(tmp_path, small_chunks):
    """Test a link to a later row, which changes a chunk without new rows."""
    buffer = ReplayBuffer(64)
    buffer.add(rows_of([0, 1]), (0, 0))
    buffer.add(rows_of(range(100, 141)), (1, 0))
    buffer.save(tmp_path / "1")
    buffer.add(rows_of([11, 12]), (0, 0))
    buffer.save(tmp_path / "2")
    restored = ReplayBuffer(64)
    restored.load(tmp_path / "2")
    assert {int(each["obs"]): int(each["next_obs"]) for each in draw_all(restored)}[0] == 11


def test_chunks_with_changed_priorities_are_written(tmp_path, small_chunks):
    """Test that one chunk is written."""
    buffer = filled(capacity=64, prioritized=Prioritized(1.0))
    buffer.save(tmp_path / "1")
    bootstrap_bytes = buffer.save(tmp_path / "2")
    buffer.update_priorities(np.array([3]), np.array([5.0]))
    assert buffer.save(tmp_path / "3") == bootstrap_bytes + 16


@pytest.mark.parametrize("moved", ["saved", "loaded"])
def test_renamed_folder_is_linked_to(moved, tmp_path, small_chunks):
    """Test the rename of a folder after writing it, as for checkpoints."""
    buffer = filled(capacity=64)
    buffer.save(tmp_path / "part" / "buffer")
    if moved == "loaded":
        buffer = ReplayBuffer(64)
        buffer.load(tmp_path / "part" / "buffer")
    (tmp_path / "part").rename(tmp_path / "whole")
    assert buffer.save(tmp_path / "next") < bytes_in(tmp_path / "next") / 10


def test_other_folder_of_the_same_name_is_not_linked_to(tmp_path, small_chunks):
    """Test a folder that another buffer replaced."""
    buffer, other = filled(capacity=64), ReplayBuffer(64)
    for number in range(6):
        add(other, number + 1)
    buffer.save(tmp_path / "1")
    shutil.rmtree(tmp_path / "1")
    other.save(tmp_path / "1")
    buffer.save(tmp_path / "2")
    restored = ReplayBuffer(64)
    restored.load(tmp_path / "2")
    assert same(buffer.sample(5, 9), restored.sample(5, 9))


def test_linked_chunks_do_not_depend_on_the_order_of_keys(tmp_path):
    """Test a save after loading rows with another order of keys."""
    rows = rows_of(range(6))
    swapped = rows.select("reward", "action", "is_first", "truncated", "terminated", "obs")
    buffer = ReplayBuffer(20)
    buffer.add(rows)
    buffer.save(tmp_path / "1")
    other = ReplayBuffer(20)
    other.add(swapped)
    other.load(tmp_path / "1")
    other.save(tmp_path / "2")
    reloaded = ReplayBuffer(20)
    reloaded.load(tmp_path / "2")
    assert same(buffer.sample(5, 9), reloaded.sample(5, 9))


def test_linked_chunks_do_not_depend_on_extensions(tmp_path):
    """Test two arrays of the same size and position in two buffers."""
    buffer = ReplayBuffer(8)
    for player in range(2):
        buffer.add(rows_of(range(5)).set("obs", torch.rand(5, 1, 2, dtype=torch.float64)), (player, 0))
    buffer.save(tmp_path / "1")
    other = ReplayBuffer(8, prioritized=Prioritized(1.0))
    other.load(tmp_path / "1")
    other.save(tmp_path / "2")
    reloaded = ReplayBuffer(8, prioritized=Prioritized(1.0))
    reloaded.load(tmp_path / "2")
    assert reloaded.total_priority == other.total_priority == 8.0


@pytest.mark.parametrize("where", ["stat", "link"])
def test_all_chunks_are_written_if_links_fail(where, tmp_path, monkeypatch, small_chunks):
    """Test a file system without links, and a removed folder."""
    buffer = filled()
    total = buffer.save(tmp_path / "1")

    def fail(*args, **kwargs):
        """Raise an error of the operating system."""
        raise OSError(errno.EPERM, "no links here")

    if where == "link":
        monkeypatch.setattr(places.os, "link", fail)
    else:
        shutil.rmtree(tmp_path / "1")
    assert buffer.save(tmp_path / "2") == total
    restored = ReplayBuffer(20)
    restored.load(tmp_path / "2")
    assert same(buffer.sample(5, 9), restored.sample(5, 9))


def test_descriptors_of_old_folders_are_closed(tmp_path, small_chunks):
    """Test the number of open file descriptors."""
    before = len(os.listdir("/proc/self/fd"))
    buffer = filled()
    for number in range(10):
        buffer.save(tmp_path / str(number))
        buffer.load(tmp_path / str(number))
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    del buffer
    assert len(os.listdir("/proc/self/fd")) <= before


# ---------------------------------------------------------------------------------------------------- errors


def files_of(folder):
    """Return the sorted paths of all files in a folder."""
    return sorted(path for path in folder.iterdir())


@pytest.mark.parametrize("way", ["prioritized", "sequences inside episodes"])
def test_damage_of_any_file_raises(way, tmp_path, monkeypatch):
    """Test flipped bits, truncation, extra bytes and removal of every file."""
    monkeypatch.setattr(dirty, "CHUNK_BYTES", 64)
    sampler, settings = WAYS[way]
    filled(sampler=sampler, **settings).save(tmp_path / "save")
    files = files_of(tmp_path / "save")
    assert len(files) > 20

    def check(file):
        """Assert that loading names the file."""
        with pytest.raises(DamagedSaveError) as caught:
            ReplayBuffer(20, sampler, **settings).load(tmp_path / "save")
        assert str(file) in str(caught.value)

    for file in files:
        content = file.read_bytes()
        for position in {0, len(content) // 2, len(content) - 1}:
            flipped = bytearray(content)
            flipped[position] ^= 0x10
            file.write_bytes(flipped)
            check(file)
        for part in (content[:-1], content[: len(content) // 2], b"", content + b"\0"):
            file.write_bytes(part)
            check(file)
        file.unlink()
        check(file)
        file.write_bytes(content)
    ReplayBuffer(20, sampler, **settings).load(tmp_path / "save")


def test_altered_number_in_the_manifest_raises(tmp_path):
    """Test the checksum of the manifest."""
    filled().save(tmp_path / "save")
    manifest = tmp_path / "save" / "buffer.json"
    outer = json.loads(manifest.read_text())
    outer["body"] = outer["body"].replace('"total": 30', '"total": 31')
    manifest.write_text(json.dumps(outer))
    with pytest.raises(DamagedSaveError, match=r"buffer\.json: is damaged"):
        ReplayBuffer(20).load(tmp_path / "save")


@pytest.mark.parametrize("text", ["", "[]", "3", '{"crc32": 1}', "null", "\x00"])
def test_invalid_manifest_raises(text, tmp_path):
    """Test manifests that are no JSON or have other keys."""
    (tmp_path / "buffer.json").write_text(text)
    with pytest.raises(DamagedSaveError, match=r"buffer\.json: is damaged"):
        ReplayBuffer(20).load(tmp_path)


def test_save_of_a_later_format_raises(tmp_path, monkeypatch):
    """Test that the error names both formats."""
    monkeypatch.setattr(saving, "FORMAT", 2)
    filled().save(tmp_path / "save")
    monkeypatch.undo()
    with pytest.raises(DamagedSaveError, match="has format 2, but this version reads format 1"):
        ReplayBuffer(20).load(tmp_path / "save")


def test_loading_a_missing_folder_raises(tmp_path):
    """Test that the error names the manifest."""
    with pytest.raises(DamagedSaveError, match=r"nowhere/buffer\.json: is missing"):
        ReplayBuffer(20).load(tmp_path / "nowhere")


def test_saving_to_an_existing_folder_raises(tmp_path):
    """Test that the folder is unchanged."""
    buffer = filled()
    buffer.save(tmp_path / "save")
    before = {path.name: path.read_bytes() for path in (tmp_path / "save").iterdir()}
    with pytest.raises(FileExistsError):
        buffer.save(tmp_path / "save")
    assert {path.name: path.read_bytes() for path in (tmp_path / "save").iterdir()} == before


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("after", [0, 7, "manifest"])
def test_full_disk_leaves_no_folder(code, after, tmp_path, monkeypatch, small_chunks):
    """Test that the next save contains all changes."""
    buffer = filled()
    buffer.save(tmp_path / "1")
    add(buffer, 6)
    written = []

    def write(*args):
        """Fail after some chunks."""
        written.append(args)
        if after == "manifest" or len(written) <= after:
            return original(*args)
        raise OSError(code, os.strerror(code))

    def fail(*args):
        """Raise an error of the operating system."""
        raise OSError(code, os.strerror(code))

    original = places.write_synced
    monkeypatch.setattr(places, "write_synced", write)
    if after == "manifest":
        monkeypatch.setattr(places, "write_atomically", fail)
    with pytest.raises(NoRoomError, match="the disk is full") as caught:
        buffer.save(tmp_path / "2")
    assert str(tmp_path / "2") in str(caught.value) and caught.value.errno == errno.ENOSPC
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    monkeypatch.undo()
    monkeypatch.setattr(dirty, "CHUNK_BYTES", 16)
    assert buffer.save(tmp_path / "2") < bytes_in(tmp_path / "2")  # the unsaved changes are still known
    restored = ReplayBuffer(20)
    restored.load(tmp_path / "2")
    assert same(buffer.sample(5, 9), restored.sample(5, 9))


def test_dev_full_leaves_no_folder(tmp_path):
    """Test with /dev/full, which rejects every write."""
    with pytest.raises(OSError, match="No space"), Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"1")
    buffer = filled()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "write_synced", lambda path, part: Path("/dev/full").write_bytes(part))
        with pytest.raises(NoRoomError):
            buffer.save(tmp_path / "save")
    assert not (tmp_path / "save").exists()


def test_other_errors_of_saving_are_raised_unchanged(tmp_path, monkeypatch):
    """Test an input/output error."""

    def fail(*args):
        """Raise an error of the operating system."""
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(places, "write_synced", fail)
    with pytest.raises(OSError, match="broken") as caught:
        filled().save(tmp_path / "save")
    assert not isinstance(caught.value, NoRoomError)
    assert not (tmp_path / "save").exists()


def test_save_after_a_damaged_one_was_skipped(tmp_path, small_chunks):
    """Test a resume from the checkpoint before the newest one."""
    buffer = filled()
    buffer.save(tmp_path / "1")
    add(buffer, 6)
    buffer.save(tmp_path / "2")
    victim = next(path for path in files_of(tmp_path / "2") if path.stat().st_nlink == 1 and path.suffix == ".bin")
    victim.write_bytes(b"")
    restored = ReplayBuffer(20)
    with pytest.raises(DamagedSaveError):
        restored.load(tmp_path / "2")
    restored.load(tmp_path / "1")
    expected = filled()
    assert same(expected.sample(5, 9), restored.sample(5, 9))
    restored.save(tmp_path / "3")
    reloaded = ReplayBuffer(20)
    reloaded.load(tmp_path / "3")
    assert same(restored.sample(5, 9), reloaded.sample(5, 9))


def test_rollout_is_saved(tmp_path):
    """Test the `Rollout` sampler."""
    buffer = ReplayBuffer(8, Rollout())
    buffer.add(rows_of(range(5), envs=2))
    buffer.save(tmp_path / "save")
    restored = ReplayBuffer(8, Rollout())
    restored.load(tmp_path / "save")
    assert same(buffer.sample(1), restored.sample(1))
