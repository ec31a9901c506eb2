"""What is kept at a URL comes back as it was, and what was interrupted there is never taken for a checkpoint."""

import contextlib
import importlib.util
import itertools
import json
import logging
import shutil
import subprocess
import sys
import threading
import uuid

import fsspec
import numpy as np
import pytest

from sheeprl.buffer import ReplayBuffer
from sheeprl.buffer import dirty as changes
from sheeprl.checkpoint import manifest
from sheeprl.checkpoint import remote as mirror
from sheeprl.checkpoint.manifest import MANIFEST, DamagedCheckpointError
from sheeprl.checkpoint.remote import RemoteError, RemoteStore
from tests.helpers.buffer_model import rows_of
from tests.helpers.damage import small_disk  # noqa: F401

SENDING = ("put_file", "cp_file", "pipe_file")
ASKING = ("rm_file", "rm", "ls", "info", "find", "cat_file", "get_file")


@pytest.fixture(scope="session")
def s3_server():
    """A real server of S3's protocol, in this process."""
    missing = [name for name in ("moto", "flask", "s3fs") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"there is no S3 server to test with: {', '.join(missing)} isn't installed")
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAKNOWNTOTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hushhushhush")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"bucket-{uuid.uuid4().hex}"
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(bucket)
    return f"s3://{bucket}"


@pytest.fixture(params=["memory", "file", "s3"])
def url(request, tmp_path):
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/runs/a b"
    return f"memory://{uuid.uuid4().hex}/runs" if request.param == "memory" else f"file://{tmp_path}/far/away/runs"


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch):
    monkeypatch.setattr(changes, "CHUNK_BYTES", 3000)
    monkeypatch.setattr(mirror, "WAITS", (0.0, 0.0, 0.0))


class Run:
    """Writes checkpoints of a few small files and a buffer, most of whose chunks stay as they are."""

    def __init__(self, folder):
        self.folder = folder
        self.buffer = ReplayBuffer(2000)
        self.steps = 0

    def checkpoint(self, steps=None, rows=60):
        self.steps = steps or self.steps + 1000
        folder = self.folder / f"step_{self.steps}"
        (folder / "players").mkdir(parents=True)
        (folder / "state.pt").write_bytes(np.random.default_rng(self.steps).bytes(9000))
        (folder / "config.yaml").write_text(f"# after {self.steps} steps: α\n")
        (folder / "empty").touch()
        (folder / "players" / "0 of [2].json").write_text(json.dumps(self.steps))
        self.buffer.add(rows_of(range(self.steps, self.steps + rows)), (0, self.steps))
        self.buffer.save(folder / "buffer" / "shard_0")
        manifest.write(folder, {"policy_steps": self.steps})
        return folder


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "checkpoints")
    for episode in range(5):  # so that most of the buffer is there from the first checkpoint on
        run.buffer.add(rows_of(range(200)), (1, episode))
    return run


class Spy:
    """Counts the calls to a mirror's file system, and lets the k-th of some kinds fail, for ever or once."""

    def __init__(self, kept, kinds=SENDING, fail_at=None, error=KeyboardInterrupt, times=10**9):
        self.calls = []
        self.fail_at, self.error, self.times = fail_at, error, times
        self.lock = threading.Lock()
        self.failed = 0
        for kind in kinds:
            setattr(kept.fs, kind, self.instead(kind, getattr(kept.fs, kind)))

    def instead(self, kind, original):
        def call(*args, **kwargs):
            with self.lock:
                self.calls.append((kind, args))
                fails = self.fail_at is not None and len(self.calls) > self.fail_at and self.failed < self.times
                self.failed += fails
            if fails:
                raise self.error("the network is gone")
            return original(*args, **kwargs)

        return call

    def of(self, kind):
        return [args for name, args in self.calls if name == kind]


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stored(kept):
    """Everything that is at the mirror's URL, relative to it."""
    found = fsspec.filesystem(kept.scheme, skip_instance_cache=True, use_listings_cache=False).find(kept.root)
    return sorted(path[len(kept.root) + 1 :] for path in found)


def test_three_are_kept_the_oldest_removed_and_the_newest_comes_back(url, run, tmp_path):
    kept = RemoteStore(url)
    assert kept.names() == []
    folders = [run.checkpoint(steps) for steps in (1000, 9000, 20000)]
    for folder in folders:
        kept.upload(folder)
    assert kept.names() == ["step_1000", "step_9000", "step_20000"]
    kept.remove("step_1000")
    assert kept.names() == ["step_9000", "step_20000"]
    elsewhere = RemoteStore(url)
    assert elsewhere.names() == kept.names()
    came = elsewhere.download(elsewhere.names()[-1], tmp_path / "back")
    assert came == tmp_path / "back" / "step_20000"
    assert content(came) == content(folders[-1])
    assert manifest.verify(came) == manifest.read(folders[-1])
    restored = ReplayBuffer(2000)
    restored.load(came / "buffer" / "shard_0")
    assert len(restored) == len(run.buffer)
    assert not [name for name in stored(kept) if not name.startswith(("step_9000/", "step_20000/"))]
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["step_20000"]


def test_unchanged_chunks_are_copied_there_and_not_sent(url, run):
    kept = RemoteStore(url)
    first, second = run.checkpoint(), run.checkpoint()
    unchanged = {
        name
        for name in content(second)
        if (first / name).exists() and (first / name).read_bytes() == (second / name).read_bytes()
    }
    chunks = {name for name in content(second) if name.endswith(".bin")}
    assert len(unchanged & chunks) > 5, "some of the buffer has to be as it was"
    assert chunks - unchanged, "some of the buffer has to have changed"
    kept.upload(first)
    spy = Spy(kept)
    kept.upload(second)
    sent = {args[1].partition("step_2000/")[2] for args in spy.of("put_file")}
    assert sent == set(content(second)) - unchanged - {MANIFEST}
    copied = [args for args in spy.of("cp_file") if args[0].startswith(kept.root)]  # a folder's put_file uses it, too
    assert {args[1].partition("step_2000/")[2] for args in copied} == unchanged
    kept.remove("step_1000")  # what was copied doesn't lean on it
    shutil.rmtree(first)
    assert content(kept.download("step_2000", first.parent / "back")) == content(second)


def test_the_same_checkpoint_isnt_sent_twice_but_another_of_its_name_is(url, run, tmp_path):
    kept = RemoteStore(url)
    folder = run.checkpoint()
    kept.upload(folder)
    spy = Spy(kept)
    kept.upload(folder)
    assert spy.calls == []
    (folder / "state.pt").write_bytes(b"learned on")
    manifest.write(folder, {"policy_steps": 1000})
    kept.upload(folder)
    assert kept.names() == ["step_1000"]
    assert (kept.download("step_1000", tmp_path / "back") / "state.pt").read_bytes() == b"learned on"


@pytest.mark.slow
def test_an_interrupted_upload_is_never_taken_for_a_checkpoint(url, run, tmp_path):
    """Whatever was the last thing that was done; in a bucket, which is slow, whatever was the last to be written."""
    kinds = SENDING if url.startswith("s3") else (*SENDING, *ASKING)
    first, second, third = (run.checkpoint() for _ in range(3))
    kept = RemoteStore(url)
    kept.upload(first)
    for point in itertools.count():
        interrupted = RemoteStore(url)
        spy = Spy(interrupted, kinds, point, (KeyboardInterrupt, OSError)[point % 2])
        with contextlib.suppress(KeyboardInterrupt, RemoteError):
            interrupted.upload(second)
        whole = kept.names()
        assert whole in (["step_1000"], ["step_1000", "step_2000"])
        if len(whole) > 1:  # the manifest is there; what was left to do is of no importance
            assert content(kept.download("step_2000", tmp_path / "late")) == content(second)
        if not spy.failed:
            break
        if point % 7 == 0:  # another one works, and clears what was left of this one
            kept.upload(third)
            assert [name for name in kept.names() if name != "step_2000"] == ["step_1000", "step_3000"]
            assert not [name for name in stored(kept) if name.endswith(".unfinished")]
            kept.remove("step_3000")
    assert len(whole) == 2
    assert point > 15, "an upload is more than a few calls"
    assert content(kept.download("step_1000", tmp_path / "back")) == content(first)


def test_the_remains_of_an_upload_are_gone_after_the_next(url, run):
    first, second, third = (run.checkpoint() for _ in range(3))
    RemoteStore(url).upload(first)
    clean = stored(RemoteStore(url))
    interrupted = RemoteStore(url)
    Spy(interrupted, ("put_file", "cp_file"), 9)
    with pytest.raises(KeyboardInterrupt):
        interrupted.upload(second)
    assert stored(RemoteStore(url)) != clean
    RemoteStore(url).upload(third)
    assert not [name for name in stored(RemoteStore(url)) if "step_2000" in name]
    RemoteStore(url).remove("step_3000")
    assert stored(RemoteStore(url)) == clean


def test_an_interrupted_removal_leaves_no_checkpoint_and_is_finished_later(url, run):
    folder, other = run.checkpoint(), run.checkpoint()
    kept = RemoteStore(url)
    for point in itertools.count():
        kept.upload(folder)
        removing = RemoteStore(url)
        spy = Spy(removing, ("pipe_file", "rm_file", "rm"), point)
        with contextlib.suppress(KeyboardInterrupt):
            removing.remove("step_1000")
        left = stored(kept)
        assert kept.names() == (["step_1000"] if f"step_1000/{MANIFEST}" in left else [])
        if kept.names():
            assert {name.partition("/")[2] for name in left if "/" in name} == set(content(folder))
            kept.remove("step_1000")
        kept.upload(other)
        assert not [name for name in stored(kept) if not name.startswith("step_2000/")]
        kept.remove("step_2000")
        if not spy.failed:
            break
    assert point >= 3
    assert stored(kept) == []


def test_folders_of_somebody_else_are_let_be(url, run):
    kept = RemoteStore(url)
    kept.upload(run.checkpoint())
    for name in ("step_7", "step_x"):
        kept.fs.makedirs(f"{kept.root}/{name}", exist_ok=True)
    kept.fs.pipe_file(f"{kept.root}/step_7/state.json", b"an older version's")
    kept.fs.pipe_file(f"{kept.root}/step_x/{MANIFEST}", b"not a step")
    kept.fs.pipe_file(f"{kept.root}/notes.txt", b"the good one")
    kept.upload(run.checkpoint())
    assert kept.names() == ["step_1000", "step_2000"]
    others = [name for name in stored(kept) if not name.startswith(("step_1000/", "step_2000/"))]
    assert others == ["notes.txt", "step_7/state.json", f"step_x/{MANIFEST}"]


def test_what_is_damaged_there_is_refused_and_named(url, run, tmp_path):
    kept = RemoteStore(url)
    folder = run.checkpoint()
    kept.upload(folder)
    (tmp_path / "back").mkdir()
    for name in ("state.pt", "config.yaml", "buffer/shard_0/buffer.json", "buffer/shard_0/00_00000.bin", MANIFEST):
        whole = kept.fs.cat_file(f"{kept.root}/step_1000/{name}")
        for damaged in (whole[:-1], whole[:7] + bytes([whole[7] ^ 4]) + whole[8:], None):
            if damaged is None:
                kept.fs.rm_file(f"{kept.root}/step_1000/{name}")
            else:
                kept.fs.pipe_file(f"{kept.root}/step_1000/{name}", damaged)
            missing = damaged is None and name == MANIFEST
            with pytest.raises(RemoteError if missing else DamagedCheckpointError) as caught:
                kept.download("step_1000", tmp_path / "back")
            assert str(caught.value).startswith(f"{url}/step_1000" + ("" if missing else f"/{name}: "))
            assert list((tmp_path / "back").iterdir()) == []
            kept.fs.pipe_file(f"{kept.root}/step_1000/{name}", whole)
    kept.download("step_1000", tmp_path / "back")


def test_a_damaged_checkpoint_there_is_no_obstacle_to_the_next(url, run, tmp_path):
    kept = RemoteStore(url)
    kept.upload(run.checkpoint())
    for name in ("buffer/shard_0/buffer.json", MANIFEST):
        kept.fs.pipe_file(f"{kept.root}/step_1000/{name}", b"{")
        folder = run.checkpoint()
        kept.upload(folder)
        assert content(kept.download(folder.name, tmp_path / "back")) == content(folder)
        kept.remove(folder.name)


def test_a_file_that_is_gone_there_is_sent_instead_of_copied(url, run, tmp_path):
    kept = RemoteStore(url)
    kept.upload(run.checkpoint())
    kept.fs.rm_file(f"{kept.root}/step_1000/buffer/shard_0/00_00000.bin")
    folder = run.checkpoint()
    kept.upload(folder)
    assert content(kept.download(folder.name, tmp_path / "back")) == content(folder)


def test_a_file_system_that_cant_copy_is_sent_everything(run, tmp_path):
    kept = RemoteStore(f"file://{tmp_path}/far")
    kept.upload(run.checkpoint())

    def cant(*args, **kwargs):
        raise NotImplementedError

    kept.fs.cp_file = cant
    kept.fs.put_file = shutil.copyfile
    folder = run.checkpoint()
    kept.upload(folder)
    assert content(RemoteStore(kept.url).download(folder.name, tmp_path / "back")) == content(folder)


def test_a_file_that_arrived_short_makes_no_checkpoint(url, run, tmp_path):
    kept = RemoteStore(url)
    put_file = kept.fs.put_file
    (tmp_path / "nothing").touch()

    def put_short(source, target):
        put_file(str(tmp_path / "nothing") if target.endswith("state.pt") else source, target)

    kept.fs.put_file = put_short
    with pytest.raises(RemoteError, match=r"step_1000/state\.pt: 0 bytes instead of 9000 arrived"):
        kept.upload(run.checkpoint())
    assert kept.names() == []


def test_a_download_takes_the_place_of_what_is_here(url, run, tmp_path):
    kept = RemoteStore(url)
    folder = run.checkpoint()
    whole = content(folder)
    kept.upload(folder)
    (folder / "state.pt").write_bytes(b"damaged")
    (folder.parent / ".step_1000.part" / "remains").mkdir(parents=True)
    kept.download("step_1000", folder.parent)
    assert content(folder) == whole
    assert [path.name for path in folder.parent.iterdir()] == ["step_1000"]


def test_a_download_that_fails_leaves_what_is_here(url, run, tmp_path):
    folder = run.checkpoint()
    RemoteStore(url).upload(folder)
    for point in range(0, 20, 3):
        kept = RemoteStore(url)
        spy = Spy(kept, ("get_file", "cat_file"), point, OSError)
        with pytest.raises(RemoteError, match="step_1000 can't be downloaded: OSError: the network is gone"):
            kept.download("step_1000", folder.parent)
        assert spy.failed
        assert [path.name for path in folder.parent.iterdir()] == ["step_1000"]
        manifest.verify(folder)


def test_a_download_to_a_full_disk_says_so_and_leaves_nothing(url, run, small_disk):  # noqa: F811
    kept = RemoteStore(url)
    kept.upload(run.checkpoint())
    disk = small_disk(1)
    ballast = disk.fill(leave=2 * 4096)
    with pytest.raises(RemoteError, match=r"step_1000 can't be downloaded: .*No space left"):
        kept.download("step_1000", disk.folder)
    assert [path.name for path in disk.folder.iterdir()] == ["ballast"]
    ballast.unlink()
    kept.download("step_1000", disk.folder)


def test_the_text_of_a_checkpoint(url, run):
    kept = RemoteStore(url)
    kept.upload(run.checkpoint())
    assert kept.read_text("step_1000", "config.yaml") == "# after 1000 steps: α\n"
    with pytest.raises(RemoteError, match=r"nothing\.yaml: the checkpoint has no such file"):
        kept.read_text("step_1000", "nothing.yaml")
    with pytest.raises(RemoteError, match="no such file"):
        kept.read_text("step_1000", "../notes.txt")
    with pytest.raises(RemoteError, match=r"step_2000: no complete checkpoint"):
        kept.read_text("step_2000", "config.yaml")
    with pytest.raises(RemoteError, match=r"state\.pt: isn.t a text file"):
        kept.read_text("step_1000", "state.pt")
    kept.fs.pipe_file(f"{kept.root}/step_1000/config.yaml", b"env: evil")
    with pytest.raises(DamagedCheckpointError, match=r"config\.yaml: is damaged"):
        kept.read_text("step_1000", "config.yaml")


def test_only_whole_checkpoints_are_uploaded(run, tmp_path):
    kept = RemoteStore(f"file://{tmp_path}/far")
    folder = run.checkpoint()
    (folder / MANIFEST).unlink()
    with pytest.raises(FileNotFoundError, match="not a complete checkpoint"):
        kept.upload(folder)
    assert not (tmp_path / "far").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "step_", "step_1/..", "step_-1", "checkpoints", "step_١", "step_1\n"])
def test_what_is_no_checkpoint_is_never_removed(run, tmp_path, name):
    kept = RemoteStore(f"file://{tmp_path}/far")
    kept.upload(run.checkpoint())
    for asked in (kept.remove, lambda name: kept.download(name, tmp_path), lambda name: kept.upload(tmp_path / name)):
        with pytest.raises(ValueError, match=r"a checkpoint.s name|not a complete checkpoint"):
            asked(name)
    assert kept.names() == ["step_1000"]


def test_removing_what_isnt_there_does_nothing(url):
    RemoteStore(url).remove("step_5")
    assert stored(RemoteStore(url)) == []


# --- a network that fails ---


def test_what_fails_for_a_moment_is_tried_again(run, tmp_path):
    folder = run.checkpoint()
    for error in (ConnectionResetError, TimeoutError):
        kept = RemoteStore(f"file://{tmp_path}/{error.__name__}")
        for kind in (*SENDING, *ASKING):
            Spy(kept, (kind,), 0, error, times=1)  # some call each other
        kept.upload(folder)
        assert kept.names() == ["step_1000"]
        assert content(kept.download("step_1000", tmp_path / "back")) == content(folder)


def test_what_keeps_failing_is_an_error_and_no_empty_mirror(url, run):
    RemoteStore(url).upload(run.checkpoint())
    for kind in ("ls", "info"):
        for error in (ConnectionError, PermissionError):
            kept = RemoteStore(url)
            spy = Spy(kept, (kind,), 0, error)
            with pytest.raises(RemoteError, match=f"can't be listed: {error.__name__}: the network is gone"):
                kept.names()
            tries = 1 if error is PermissionError or url.startswith("s3") else 4
            assert len(spy.calls) == tries  # s3fs tries again by itself


def test_a_mirror_can_be_tried_before_it_is_needed(url):
    kept = RemoteStore(url)
    kept.check()
    assert stored(kept) == []


def test_a_mirror_that_cant_be_written_to_is_known_at_once(s3, tmp_path):
    (tmp_path / "file").touch()
    for url in (f"{s3}-of-nobody/runs", f"file://{tmp_path}/file/runs"):
        with pytest.raises(RemoteError, match="isn't writable") as caught:
            RemoteStore(url).check()
        assert str(caught.value).startswith(f"{url}: ")


def test_no_keys_are_told(s3, run, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    nobodys, odd = RemoteStore(f"{s3}-of-nobody/runs"), RemoteStore(f"{s3}/runs")

    def drop(*args, **kwargs):
        raise OSError("no answer from http://me:hushhushhush@127.0.0.1:9/bucket?X-Amz-Signature=hushhushhush at all")

    monkeypatch.setattr(odd.fs, "ls", drop)
    for attempt in (nobodys.check, lambda: nobodys.upload(run.checkpoint()), odd.names):
        with pytest.raises(RemoteError) as caught:
            attempt()
        for text in (str(caught.value), caplog.text):
            assert "hushhushhush" not in text
            assert "AKIAKNOWNTOTEST" not in text
    assert "no answer from http:…127.0.0.1:9/bucket… at all" in str(caught.value), "what is wrong has to be told"


def test_a_bucket_takes_files_of_many_parts(s3, run, tmp_path):
    folder = run.checkpoint()
    (folder / "big").write_bytes(np.random.default_rng(0).bytes(60 * 2**20))  # more than s3fs sends in one request
    manifest.write(folder, {})
    kept = RemoteStore(s3)
    kept.upload(folder)
    shutil.copytree(folder, tmp_path / "step_2000")
    spy = Spy(kept)
    kept.upload(tmp_path / "step_2000")
    assert not spy.of("put_file")
    assert content(kept.download("step_2000", tmp_path / "back")) == content(folder)


# --- URLs ---


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "/mnt/share",
            "'/mnt/share' isn't the URL of a folder; use a URL like s3://bucket/prefix or file:///mnt/share",
        ),
        ("", "isn't the URL of a folder"),
        ("s3:/bucket", "isn't the URL of a folder"),
        ("simplecache::s3://bucket", "isn't the URL of a folder"),
        ("file://runs/a", "relative path; use file:///runs/a"),
        ("s3://", "names no folder; use a URL like s3://bucket/prefix"),
        ("s3:///", "names no folder"),
        ("s4://bucket", "unknown scheme s4; use s3://, gs:// or file://"),
        ("s3://bucket/*", "must not contain a user, password, query or wildcard"),
        ("s3://bucket/a[1]", "must not contain a user, password, query or wildcard"),
    ],
)
def test_a_wrong_url_says_what_would_be_right(url, said):
    with pytest.raises(ValueError) as caught:
        RemoteStore(url)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:hush@bucket/a",
        "sftp://me:hush@host/a",
        "s3://bucket/a?secret=hush",
        "x::s3://a:hush@b",
        "s3:/a:hush@b",
    ],
)
def test_a_url_with_a_secret_is_refused_and_not_repeated(url):
    with pytest.raises(ValueError, match="keys are taken from the environment") as caught:
        RemoteStore(url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("scheme", "package", "extra"), [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs"), ("gcs", "gcsfs", "gcs")]
)
def test_a_missing_package_is_named_with_how_to_get_it(scheme, package, extra):
    program = f"""
import sys
sys.modules[{package!r}] = None  # as if it weren't installed
from sheeprl.checkpoint.remote import RemoteStore
from sheeprl.utils.installation import install_command
try:
    RemoteStore("{scheme}://bucket/runs")
except ValueError as error:
    assert install_command("{extra}") in str(error), error
else:
    raise SystemExit("it was there")
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_mirror_needs_neither_torch_nor_ray():
    program = "import sys, sheeprl.checkpoint.remote; assert not {'torch', 'ray', 's3fs'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
