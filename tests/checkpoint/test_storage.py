"""Checkpoints at a URL: shared chunks, the commit by the manifest, interruptions, damage, leases and old objects."""

import os
import signal
import time
import uuid
from types import SimpleNamespace

import numpy as np
import pytest

from sheeprl.buffer import ReplayBuffer, dirty
from sheeprl.buffer.places import OBJECTS, DamagedSaveError, place_of
from sheeprl.checkpoint import storage as storages
from sheeprl.checkpoint.manifest import DamagedCheckpointError
from sheeprl.checkpoint.storage import LeaseLostError, RunStorage, Saved
from sheeprl.utils.objects import Objects
from tests.helpers.buckets import StoredRun, new_bucket, s3_server


@pytest.fixture(scope="module")
def server():
    """Yield the URL of an S3 server."""
    with s3_server() as url:
        yield url


@pytest.fixture(params=["memory", "file", pytest.param("s3", marks=pytest.mark.slow)])
def url(request, tmp_path, monkeypatch):
    """Return the URL of a run in memory, on a disk and in a bucket."""
    if request.param == "s3":
        return f"{new_bucket(request.getfixturevalue('server'), monkeypatch)}/runs/a b"
    return f"memory://{uuid.uuid4().hex}/runs" if request.param == "memory" else f"file://{tmp_path}/far/away/run"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Write small chunks."""
    monkeypatch.setattr(dirty, "CHUNK_BYTES", 3000)


def opened(url):
    """Return a storage whose lease is taken."""
    storage = RunStorage(url)
    storage.take_lease()
    return storage


def test_a_checkpoint_is_committed_and_read_by_others(url, tmp_path):
    """A committed checkpoint has its files and the rows of all shards; others read them without the local folder."""
    run = StoredRun(tmp_path / "local", opened(url))
    saved = run.checkpoint()
    reader = RunStorage(url)
    assert reader.checkpoints() == [saved] == [Saved(1, 1000)]
    folder = reader.fetch(saved, tmp_path / "fetched")
    assert sorted(path.name for path in folder.iterdir()) == ["agent.pt", "manifest.json", "state.json"]
    assert (folder / "agent.pt").read_bytes() == np.random.default_rng(1000).bytes(9000)
    assert run.is_restored(saved)


def test_unchanged_chunks_are_shared(url, tmp_path):
    """A second save uploads the changed chunks only; a new process shares those with the same content, too."""
    run = StoredRun(tmp_path, opened(url))
    first, second = run.save_shards(), run.save_shards()
    assert 0 < second < first / 2
    for number, shard in enumerate(run.shards):  # as a restored shard, which knows no last save
        copy = ReplayBuffer(2000)
        copy.load_state_dict(shard.state_dict())
        assert copy.save(place_of(run.storage.pending(5), number)) == 0


def test_an_uncommitted_save_is_no_checkpoint(url, tmp_path):
    """Without the manifest there is no checkpoint, and the one before is whole."""
    run = StoredRun(tmp_path, opened(url))
    saved = run.checkpoint()
    state = run.shards[0].state_dict()
    run.save_shards()
    assert run.storage.checkpoints() == [saved]
    run.shards[0].load_state_dict(state)
    copy = ReplayBuffer(2000)
    copy.load(place_of(run.storage.manifest_url(saved), 0))
    assert len(copy) == len(run.shards[0])


def test_a_kill_at_any_step_leaves_a_whole_checkpoint(tmp_path):
    """A process that is killed at any operation of an upload leaves the last checkpoint, or the new one, whole."""
    newest, step = Saved(1, 1000), 0
    run = StoredRun(tmp_path, opened(f"file://{tmp_path}/store"))
    run.checkpoint()
    before = [shard.state_dict() for shard in run.shards]
    while newest == Saved(1, 1000):
        step += 1
        child = os.fork()
        if not child:
            _die_at(step)
            run.checkpoint()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        reader = RunStorage(f"file://{tmp_path}/store")
        newest = reader.checkpoints()[-1]
        reader.fetch(newest, tmp_path / "fetched")  # verifies it
        if os.WIFSIGNALED(status) and newest == Saved(1, 1000):
            for number, shard in enumerate(run.shards):
                copy = ReplayBuffer(2000)
                copy.load(place_of(reader.manifest_url(newest), number))
                assert len(copy) == len(shard) and np.array_equal(
                    copy.state_dict()["arrays"]["row reward"], before[number]["arrays"]["row reward"]
                )
    assert step > 8


def _die_at(step):
    """Kill this process at an operation that writes."""
    done = 0

    def dying(operation):
        """Return the operation with a kill before or after it."""

        def call(*args):
            """Count the operation and call it."""
            nonlocal done
            done += 1
            if done == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*args)

        return call

    Objects.write, Objects.create = dying(Objects.write), dying(Objects.create)


def test_two_drivers_cannot_both_commit(url, tmp_path):
    """The driver that took the lease last commits; the other one fails before its manifest."""
    first = StoredRun(tmp_path / "1", opened(url))
    first.checkpoint()
    second = StoredRun(tmp_path / "2", opened(url))
    with pytest.raises(LeaseLostError, match=r"another driver has taken over this run .*/lease/000002\.json"):
        first.checkpoint()
    saved = second.checkpoint()
    assert RunStorage(url).checkpoints() == [Saved(1, 1000), saved] and saved == Saved(2, 1000)
    assert second.is_restored(saved)


def test_a_lease_is_taken_by_one_of_two(url, monkeypatch):
    """Two drivers that see the same newest epoch get different ones."""
    first, second = RunStorage(url), RunStorage(url)
    newest = RunStorage._newest_epoch
    answers = iter([0, 0])
    monkeypatch.setattr(RunStorage, "_newest_epoch", lambda self: next(answers, None) or newest(self))
    first.take_lease()
    second.take_lease()
    assert (first.epoch, second.epoch) == (1, 2)


def test_a_server_without_conditional_creation_lets_the_last_driver_commit(tmp_path, monkeypatch):
    """A driver whose lease was overwritten doesn't commit, although it has the newest epoch."""
    first, second = RunStorage(f"{tmp_path}/run"), RunStorage(f"{tmp_path}/run")
    first.take_lease()
    monkeypatch.setattr(second, "_newest_epoch", lambda: 0)
    monkeypatch.setattr(second.objects, "create", lambda name, data: second.objects.write(name, data) is None)
    second.take_lease()
    assert first.epoch == second.epoch == 1
    with pytest.raises(LeaseLostError):
        first.check_lease()


def test_old_checkpoints_and_their_objects_are_removed_after_an_hour(url, tmp_path, monkeypatch):
    """Objects that no manifest names are removed once they are old; those of retained checkpoints remain."""
    run = StoredRun(tmp_path, opened(url))
    run.checkpoint()
    saved = run.checkpoint()
    before = set(run.storage.objects.listing(OBJECTS))
    run.storage.clean([saved])
    assert run.storage.checkpoints() == [saved] and set(run.storage.objects.listing(OBJECTS)) == before
    monkeypatch.setattr(storages, "RETENTION", -60.0)
    run.storage.clean([saved])
    left = set(run.storage.objects.listing(OBJECTS))
    assert left < before and run.is_restored(saved)
    assert not run.storage.objects.listing("pending")


@pytest.mark.parametrize("ahead", [-7200.0, 7200.0])
def test_a_wrong_clock_removes_no_new_object(url, tmp_path, monkeypatch, ahead):
    """A driver whose clock differs by hours from that of the storage removes old objects only."""
    monkeypatch.setattr("sheeprl.utils.objects.time", SimpleNamespace(time=lambda: time.time() + ahead))
    run = StoredRun(tmp_path, opened(url))
    run.checkpoint()
    run.save_shards()
    before = set(run.storage.objects.listing(OBJECTS))
    run.storage.clean(run.storage.checkpoints())
    assert set(run.storage.objects.listing(OBJECTS)) == before
    assert run.is_restored(run.commit())


def test_damage_is_found_by_name(url, tmp_path):
    """A missing chunk, an altered file and an altered manifest are found before a checkpoint is used."""
    run = StoredRun(tmp_path, opened(url))
    saved, objects = run.checkpoint(), run.storage.objects
    index = objects.read("pending/000001-step_1000/shard_1.json").decode()
    chunk = next(name for name in objects.listing(OBJECTS) if name in index)
    content = objects.read(f"{OBJECTS}/{chunk}")
    objects.remove([f"{OBJECTS}/{chunk}"])
    with pytest.raises(DamagedCheckpointError, match=f"{OBJECTS}/{chunk} is missing or truncated"):
        run.storage.fetch(saved, tmp_path / "fetched")
    with pytest.raises(DamagedSaveError, match=chunk):
        run.is_restored(saved)
    objects.write(f"{OBJECTS}/{chunk}", content)
    agent = storages.content_name(np.random.default_rng(1000).bytes(9000))
    objects.write(f"{OBJECTS}/{agent}", b"x")
    with pytest.raises(DamagedCheckpointError, match="its content differs"):
        run.storage.fetch(saved, tmp_path / "fetched")
    objects.write(saved.name, b"{}")
    with pytest.raises(DamagedCheckpointError, match=r"step_1000\.json.*is damaged"):
        run.storage.fetch(saved, tmp_path / "fetched")
    assert not list((tmp_path / "fetched").iterdir())


def test_a_commit_without_a_shard_fails(url, tmp_path):
    """A commit fails if a shard hasn't saved its rows."""
    run = StoredRun(tmp_path, opened(url))
    run.steps = 1000
    run.shards[0].save(place_of(run.storage.pending(1000), 0))
    with pytest.raises(OSError, match=r"shard_1\.json can't be read: it doesn't exist"):
        run.commit()
    assert run.storage.checkpoints() == []
