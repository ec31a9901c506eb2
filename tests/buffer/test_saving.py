"""What is saved is what is loaded, or an error that names the file; and only what has changed is written."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sheeprl.buffer import ReplayBuffer, saving
from sheeprl.buffer import dirty as changes
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
    monkeypatch.setattr(changes, "CHUNK_BYTES", 16)


def filled(capacity=20, fragments=6, **settings):
    buffer = ReplayBuffer(capacity, **settings)
    for number in range(fragments):
        add(buffer, number)
    return buffer


def add(buffer, number):
    begin = 5 * (number // 2)
    buffer.add(rows_of(range(begin, begin + 6), ends="  t  x" if number % 3 else "", first="f  f"), (number % 2, 0))


def bytes_in(folder):
    return sum(path.stat().st_size for path in folder.glob("*.bin"))


def same(one, other):
    """Two samples, or both none."""
    return all((one[key] == other[key]).all() for key in one.keys(include_nested=True, leaves_only=True))


# -------------------------------------------------------------------------------------------------- going on


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mapped", [False, True])
def test_draws_go_on_just_as_they_would_have(way, mapped, tmp_path, small_chunks):
    sampler, settings = WAYS[way]

    def make(seed):
        memmap = tmp_path / f"memory_{seed}" if mapped else None
        return ReplayBuffer(20, sampler, seed, memmap=memmap, **settings)

    buffer, loaded, taken = make(1), make(2), make(3)
    for number in range(6):
        add(buffer, number)
        add(loaded, number + 3)  # what it held before is no more
    if buffer.priorities:
        index = buffer.sample(2, 2)["index"]
        index = index[:, -1] if index.ndim == 3 else index
        buffer.update_priorities(index, np.random.default_rng(0).random((2, 2)) * 5)
    buffer.sample(2, 2)
    buffer.save(tmp_path / "save")
    loaded.load(tmp_path / "save")
    taken.load_state_dict(buffer.state_dict())
    for number in range(6, 10):
        drawn = buffer.sample(2, 4, progress=0.5)
        assert same(drawn, loaded.sample(2, 4, progress=0.5)) and same(drawn, taken.sample(2, 4, progress=0.5))
        for each in (buffer, loaded, taken):
            add(each, number)
            if each.priorities:
                index = drawn["index"][:, -1] if drawn["index"].ndim == 3 else drawn["index"]
                each.update_priorities(index, index.numpy() % 7 + 0.5)
    assert buffer.counts == loaded.counts == taken.counts


def test_a_state_dict_is_a_copy():
    buffer = filled()
    state = buffer.state_dict()
    names = {int(sample["obs"]) for sample in draw_all(buffer)}
    for number in range(6, 12):
        add(buffer, number)
    restored = ReplayBuffer(20)
    restored.load_state_dict(state)
    add(restored, 6)
    again = ReplayBuffer(20)
    again.load_state_dict(state)
    assert {int(sample["obs"]) for sample in draw_all(again)} == names


def test_an_empty_buffer_is_saved_and_loaded(tmp_path):
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


def test_a_save_without_priorities_is_loaded_with_the_highest(tmp_path):
    filled().save(tmp_path / "save")
    buffer = ReplayBuffer(20, prioritized=Prioritized(1.0))
    buffer.load(tmp_path / "save")
    assert buffer.total_priority == buffer.available
    assert buffer.sample(5, 2)["importance"].eq(1).all()


def test_a_save_with_priorities_is_loaded_without(tmp_path):
    buffer = filled(prioritized=Prioritized(1.0))
    buffer.save(tmp_path / "save")
    plain = ReplayBuffer(20)
    plain.load(tmp_path / "save")
    assert [int(each["index"]) for each in draw_all(plain)] == [int(each["index"]) for each in draw_all(buffer)]


def test_rows_of_another_kind_are_refused(tmp_path):
    filled().save(tmp_path / "save")
    buffer = ReplayBuffer(20)
    buffer.add(rows_of([1, 2]).set("more", torch.zeros(2, 1)))
    for load in (lambda: buffer.load(tmp_path / "save"), lambda: buffer.load_state_dict(filled().state_dict())):
        with pytest.raises(ValueError, match="other keys, shapes or dtypes"):
            load()
    assert len(buffer) == 1 and [int(sample["obs"]) for sample in draw_all(buffer)] == [1]


# -------------------------------------------------------------------------------------------------- in parts


def test_what_has_not_changed_is_linked(tmp_path, small_chunks):
    buffer = filled(capacity=64)
    whole = buffer.save(tmp_path / "1")
    assert whole == bytes_in(tmp_path / "1")
    tails = sum(values.nbytes for name, values in buffer.storage.arrays().items() if name.startswith("tail "))
    assert buffer.save(tmp_path / "2") == tails
    links = [path.stat().st_nlink for path in (tmp_path / "2").glob("*.bin")]
    assert links.count(2) > 50 and links.count(1) == len(buffer.storage.tails)
    add(buffer, 6)
    written = buffer.save(tmp_path / "3")
    assert tails < written < whole / 2
    buffer.write_back(np.array([1]), rows_of([77]).select("action")[0])
    # A chunk of 16 bytes.
    assert buffer.save(tmp_path / "4") == tails + 16
    before = {path.name: path.read_bytes() for path in (tmp_path / "2").iterdir()}
    shutil.rmtree(tmp_path / "1")
    shutil.rmtree(tmp_path / "3")
    assert {path.name: path.read_bytes() for path in (tmp_path / "2").iterdir()} == before
    restored = ReplayBuffer(64)
    restored.load(tmp_path / "4")
    assert same(buffer.sample(5, 9), restored.sample(5, 9))
    assert restored.save(tmp_path / "5") == tails  # after a load, too


def test_links_to_rows_that_came_later_are_written(tmp_path, small_chunks):
    """They change a chunk to which nothing is added."""
    buffer = ReplayBuffer(64)
    buffer.add(rows_of([0, 1]), (0, 0))
    buffer.add(rows_of(range(100, 141)), (1, 0))
    buffer.save(tmp_path / "1")
    buffer.add(rows_of([11, 12]), (0, 0))
    buffer.save(tmp_path / "2")
    restored = ReplayBuffer(64)
    restored.load(tmp_path / "2")
    assert {int(each["obs"]): int(each["next_obs"]) for each in draw_all(restored)}[0] == 11


def test_priorities_are_written_where_they_changed(tmp_path, small_chunks):
    buffer = filled(capacity=64, prioritized=Prioritized(1.0))
    buffer.save(tmp_path / "1")
    tails = buffer.save(tmp_path / "2")
    buffer.update_priorities(np.array([3]), np.array([5.0]))
    assert buffer.save(tmp_path / "3") == tails + 16


@pytest.mark.parametrize("moved", ["saved", "loaded"])
def test_a_folder_is_linked_to_after_it_was_given_its_name(moved, tmp_path, small_chunks):
    """As checkpoints are: written beside the others, then renamed."""
    buffer = filled(capacity=64)
    buffer.save(tmp_path / "part" / "buffer")
    if moved == "loaded":
        buffer = ReplayBuffer(64)
        buffer.load(tmp_path / "part" / "buffer")
    (tmp_path / "part").rename(tmp_path / "whole")
    assert buffer.save(tmp_path / "next") < bytes_in(tmp_path / "next") / 10


def test_another_folder_of_the_same_name_is_not_linked_to(tmp_path, small_chunks):
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


def test_chunks_are_those_of_their_array_whatever_the_order_of_keys(tmp_path):
    rows = rows_of(range(6))
    swapped = rows.select("reward", "action", "is_first", "truncated", "terminated", "obs")
    buffer = ReplayBuffer(20)
    buffer.add(rows)
    buffer.save(tmp_path / "1")
    other = ReplayBuffer(20)
    other.add(swapped)
    other.load(tmp_path / "1")
    other.save(tmp_path / "2")
    again = ReplayBuffer(20)
    again.load(tmp_path / "2")
    assert same(buffer.sample(5, 9), again.sample(5, 9))


def test_chunks_are_those_of_their_array_whatever_is_kept_beside_the_rows(tmp_path):
    """Two arrays of the same size, at the same place among those of two buffers."""
    buffer = ReplayBuffer(8)
    for player in range(2):
        buffer.add(rows_of(range(5)).set("obs", torch.rand(5, 1, 2, dtype=torch.float64)), (player, 0))
    buffer.save(tmp_path / "1")
    other = ReplayBuffer(8, prioritized=Prioritized(1.0))
    other.load(tmp_path / "1")
    other.save(tmp_path / "2")
    again = ReplayBuffer(8, prioritized=Prioritized(1.0))
    again.load(tmp_path / "2")
    assert again.total_priority == other.total_priority == 8.0


@pytest.mark.parametrize("where", ["stat", "link"])
def test_where_nothing_can_be_linked_all_is_written(where, tmp_path, monkeypatch, small_chunks):
    buffer = filled()
    whole = buffer.save(tmp_path / "1")

    def fail(*args, **kwargs):
        raise OSError(errno.EPERM, "no links here")

    if where == "link":
        monkeypatch.setattr(saving.os, "link", fail)
    else:
        shutil.rmtree(tmp_path / "1")
    assert buffer.save(tmp_path / "2") == whole
    restored = ReplayBuffer(20)
    restored.load(tmp_path / "2")
    assert same(buffer.sample(5, 9), restored.sample(5, 9))


def test_folders_that_are_no_longer_needed_are_let_go(tmp_path, small_chunks):
    before = len(os.listdir("/proc/self/fd"))
    buffer = filled()
    for number in range(10):
        buffer.save(tmp_path / str(number))
        buffer.load(tmp_path / str(number))
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    del buffer
    assert len(os.listdir("/proc/self/fd")) <= before


# ------------------------------------------------------------------------------------------------- in trouble


def files_of(folder):
    return sorted(path for path in folder.iterdir())


@pytest.mark.parametrize("way", ["prioritized", "sequences inside episodes"])
def test_damage_of_any_file_is_told_by_its_name(way, tmp_path, monkeypatch):
    monkeypatch.setattr(changes, "CHUNK_BYTES", 64)
    sampler, settings = WAYS[way]
    filled(sampler=sampler, **settings).save(tmp_path / "save")
    files = files_of(tmp_path / "save")
    assert len(files) > 20

    def check(file):
        with pytest.raises(DamagedSaveError) as caught:
            ReplayBuffer(20, sampler, **settings).load(tmp_path / "save")
        assert str(file) in str(caught.value)

    for file in files:
        whole = file.read_bytes()
        for place in {0, len(whole) // 2, len(whole) - 1}:
            flipped = bytearray(whole)
            flipped[place] ^= 0x10
            file.write_bytes(flipped)
            check(file)
        for part in (whole[:-1], whole[: len(whole) // 2], b"", whole + b"\0"):
            file.write_bytes(part)
            check(file)
        file.unlink()
        check(file)
        file.write_bytes(whole)
    ReplayBuffer(20, sampler, **settings).load(tmp_path / "save")


def test_a_number_changed_in_the_manifest_is_noticed(tmp_path):
    filled().save(tmp_path / "save")
    manifest = tmp_path / "save" / "buffer.json"
    outer = json.loads(manifest.read_text())
    outer["body"] = outer["body"].replace('"total": 30', '"total": 31')
    manifest.write_text(json.dumps(outer))
    with pytest.raises(DamagedSaveError, match=r"buffer\.json: is damaged"):
        ReplayBuffer(20).load(tmp_path / "save")


@pytest.mark.parametrize("text", ["", "[]", "3", '{"crc32": 1}', "null", "\x00"])
def test_a_manifest_that_is_none(text, tmp_path):
    (tmp_path / "buffer.json").write_text(text)
    with pytest.raises(DamagedSaveError, match=r"buffer\.json: is damaged"):
        ReplayBuffer(20).load(tmp_path)


def test_what_was_written_by_a_later_version_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "FORMAT", 2)
    filled().save(tmp_path / "save")
    monkeypatch.undo()
    with pytest.raises(DamagedSaveError, match="is of format 2, this version reads 1"):
        ReplayBuffer(20).load(tmp_path / "save")


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DamagedSaveError, match=r"nowhere/buffer\.json: is missing"):
        ReplayBuffer(20).load(tmp_path / "nowhere")


def test_a_folder_that_is_there_is_not_written_to(tmp_path):
    buffer = filled()
    buffer.save(tmp_path / "save")
    before = {path.name: path.read_bytes() for path in (tmp_path / "save").iterdir()}
    with pytest.raises(FileExistsError):
        buffer.save(tmp_path / "save")
    assert {path.name: path.read_bytes() for path in (tmp_path / "save").iterdir()} == before


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("after", [0, 7, "manifest"])
def test_a_full_disk_leaves_no_folder(code, after, tmp_path, monkeypatch, small_chunks):
    buffer = filled()
    buffer.save(tmp_path / "1")
    add(buffer, 6)
    written = []

    def write(*args):
        written.append(args)
        if after == "manifest" or len(written) <= after:
            return original(*args)
        raise OSError(code, os.strerror(code))

    def fail(*args):
        raise OSError(code, os.strerror(code))

    original = saving._write
    monkeypatch.setattr(saving, "_write", write)
    if after == "manifest":
        monkeypatch.setattr(saving, "_write_manifest", fail)
    with pytest.raises(NoRoomError, match="the disk is full") as caught:
        buffer.save(tmp_path / "2")
    assert str(tmp_path / "2") in str(caught.value) and caught.value.errno == errno.ENOSPC
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    monkeypatch.undo()
    monkeypatch.setattr(changes, "CHUNK_BYTES", 16)
    assert buffer.save(tmp_path / "2") < bytes_in(tmp_path / "2")  # what was left undone is known
    restored = ReplayBuffer(20)
    restored.load(tmp_path / "2")
    assert same(buffer.sample(5, 9), restored.sample(5, 9))


def test_a_disk_that_is_really_full(tmp_path):
    """/dev/full takes nothing."""
    with pytest.raises(OSError, match="No space"), Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"1")
    buffer = filled()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "_write", lambda path, part: Path("/dev/full").write_bytes(part.tobytes()))
        with pytest.raises(NoRoomError):
            buffer.save(tmp_path / "save")
    assert not (tmp_path / "save").exists()


def test_another_error_of_saving_is_passed_on(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(saving, "_write", fail)
    with pytest.raises(OSError, match="broken") as caught:
        filled().save(tmp_path / "save")
    assert not isinstance(caught.value, NoRoomError)
    assert not (tmp_path / "save").exists()


def test_a_save_goes_on_after_a_damaged_one_was_given_up(tmp_path, small_chunks):
    """As a resume does that takes the checkpoint before the newest."""
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
    again = ReplayBuffer(20)
    again.load(tmp_path / "3")
    assert same(restored.sample(5, 9), again.sample(5, 9))


def test_a_rollout_is_saved(tmp_path):
    buffer = ReplayBuffer(8, Rollout())
    buffer.add(rows_of(range(5), envs=2))
    buffer.save(tmp_path / "save")
    restored = ReplayBuffer(8, Rollout())
    restored.load(tmp_path / "save")
    assert same(buffer.sample(1), restored.sample(1))
