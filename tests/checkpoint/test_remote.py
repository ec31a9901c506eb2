"""Upload, download and removal of checkpoints at a URL, with interruptions, damage and network errors."""

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
from pathlib import Path

import fsspec
import numpy as np
import pytest

from sheeprl.buffer import ReplayBuffer
from sheeprl.buffer import dirty as changes
from sheeprl.checkpoint import manifest, remote
from sheeprl.checkpoint.manifest import MANIFEST, DamagedCheckpointError
from sheeprl.checkpoint.remote import RemoteError, RemoteStore
from tests.helpers.buffer_model import rows_of
from tests.helpers.damage import small_disk  # noqa: F401

WRITES = ("put_file", "cp_file", "pipe_file")
OTHER_CALLS = ("rm_file", "rm", "ls", "info", "find", "cat_file", "get_file")


@pytest.fixture(scope="session")
def s3_server():
    """Return the URL of an S3 server that runs in this process."""
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
    """Return the URL of a new bucket, with keys in the environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAKNOWNTOTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hushhushhush")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"bucket-{uuid.uuid4().hex}"
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(bucket)
    return f"s3://{bucket}"


@pytest.fixture(params=["memory", "file", "s3"])
def url(request, tmp_path):
    """Return the URL of a folder in memory, on a disk and in a bucket."""
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/runs/a b"
    return f"memory://{uuid.uuid4().hex}/runs" if request.param == "memory" else f"file://{tmp_path}/far/away/runs"


@pytest.fixture(autouse=True)
def small_chunks_and_no_waits(monkeypatch):
    """Write small chunks, and retry without waiting."""
    monkeypatch.setattr(changes, "CHUNK_BYTES", 3000)
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0, 0.0))


class Run:
    """Writes checkpoints of a few small files and a buffer most of whose chunks don't change."""

    def __init__(self, folder):
        """Create an empty buffer."""
        self.folder = folder
        self.buffer = ReplayBuffer(2000)
        self.steps = 0

    def checkpoint(self, steps=None, rows=60):
        """Add rows and write the checkpoint of a step; return its folder."""
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
    """Return a run with 1000 rows, so that most chunks are old from the first checkpoint on."""
    run = Run(tmp_path / "checkpoints")
    for episode in range(5):
        run.buffer.add(rows_of(range(200)), (1, episode))
    return run


class Spy:
    """Records the calls of a store's file system and makes up to `times` calls after `fail_at` calls fail."""

    def __init__(self, store, kinds=WRITES, fail_at=None, error=KeyboardInterrupt, times=10**9):
        """Replace the methods in `kinds`."""
        self.calls = []
        self.fail_at, self.error, self.times = fail_at, error, times
        self.lock = threading.Lock()
        self.failed = 0
        for kind in kinds:
            setattr(store.fs, kind, self.wrap(kind, getattr(store.fs, kind)))

    def wrap(self, kind, original):
        """Return a method that records its call, then fails or calls the original."""

        def call(*args, **kwargs):
            """Record the call, then fail or call the original."""
            with self.lock:
                self.calls.append((kind, args))
                fails = self.fail_at is not None and len(self.calls) > self.fail_at and self.failed < self.times
                self.failed += fails
            if fails:
                raise self.error("the network is gone")
            return original(*args, **kwargs)

        return call

    def of(self, kind):
        """Return the arguments of all calls of a method."""
        return [args for name, args in self.calls if name == kind]


def content(folder):
    """Return the content of all files below a folder, by relative path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stored(store):
    """Return the relative paths of all files at the store's URL."""
    found = fsspec.filesystem(store.scheme, skip_instance_cache=True, use_listings_cache=False).find(store.root)
    return sorted(path[len(store.root) + 1 :] for path in found)


def test_checkpoints_are_uploaded_removed_and_downloaded(url, run, tmp_path):
    """Checkpoints are listed by step; a removed one is gone and a downloaded one is identical."""
    store = RemoteStore(url)
    assert store.names() == []
    folders = [run.checkpoint(steps) for steps in (1000, 9000, 20000)]
    for folder in folders:
        store.upload(folder)
    assert store.names() == ["step_1000", "step_9000", "step_20000"]
    store.remove("step_1000")
    assert store.names() == ["step_9000", "step_20000"]
    elsewhere = RemoteStore(url)
    assert elsewhere.names() == store.names()
    came = elsewhere.download(elsewhere.names()[-1], tmp_path / "back")
    assert came == tmp_path / "back" / "step_20000"
    assert content(came) == content(folders[-1])
    assert manifest.verify(came) == manifest.read(folders[-1])
    restored = ReplayBuffer(2000)
    restored.load(came / "buffer" / "shard_0")
    assert len(restored) == len(run.buffer)
    assert not [name for name in stored(store) if not name.startswith(("step_9000/", "step_20000/"))]
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["step_20000"]


def test_unchanged_files_are_copied_within_the_store(url, run):
    """Files that an earlier checkpoint holds are copied within the store; only new ones are sent."""
    store = RemoteStore(url)
    first, second = run.checkpoint(), run.checkpoint()
    unchanged = {
        name
        for name in content(second)
        if (first / name).exists() and (first / name).read_bytes() == (second / name).read_bytes()
    }
    chunks = {name for name in content(second) if name.endswith(".bin")}
    assert len(unchanged & chunks) > 5, "some chunks must be unchanged"
    assert chunks - unchanged, "some chunks must have changed"
    store.upload(first)
    spy = Spy(store)
    store.upload(second)
    sent = {args[1].partition("step_2000/")[2] for args in spy.of("put_file")}
    assert sent == set(content(second)) - unchanged - {MANIFEST}
    copied = [args for args in spy.of("cp_file") if args[0].startswith(store.root)]  # a folder's put_file uses it, too
    assert {args[1].partition("step_2000/")[2] for args in copied} == unchanged
    store.remove("step_1000")  # copies don't depend on it
    shutil.rmtree(first)
    assert content(store.download("step_2000", first.parent / "back")) == content(second)


def test_an_upload_replaces_a_different_checkpoint_of_its_name(url, run, tmp_path):
    """An identical checkpoint isn't sent again; a different one replaces it."""
    store = RemoteStore(url)
    folder = run.checkpoint()
    store.upload(folder)
    spy = Spy(store)
    store.upload(folder)
    assert spy.calls == []
    (folder / "state.pt").write_bytes(b"changed")
    manifest.write(folder, {"policy_steps": 1000})
    store.upload(folder)
    assert store.names() == ["step_1000"]
    assert (store.download("step_1000", tmp_path / "back") / "state.pt").read_bytes() == b"changed"


@pytest.mark.slow
def test_an_interrupted_upload_is_no_checkpoint(url, run, tmp_path):
    """An upload interrupted at any call, for a slow bucket at any write, is no checkpoint or a complete one."""
    kinds = WRITES if url.startswith("s3") else (*WRITES, *OTHER_CALLS)
    first, second, third = (run.checkpoint() for _ in range(3))
    store = RemoteStore(url)
    store.upload(first)
    for point in itertools.count():
        interrupted = RemoteStore(url)
        spy = Spy(interrupted, kinds, point, (KeyboardInterrupt, OSError)[point % 2])
        with contextlib.suppress(KeyboardInterrupt, RemoteError):
            interrupted.upload(second)
        whole = store.names()
        assert whole in (["step_1000"], ["step_1000", "step_2000"])
        if len(whole) > 1:  # with the manifest, the checkpoint is complete
            assert content(store.download("step_2000", tmp_path / "late")) == content(second)
        if not spy.failed:
            break
        if point % 7 == 0:  # another upload succeeds and removes the remains
            store.upload(third)
            assert [name for name in store.names() if name != "step_2000"] == ["step_1000", "step_3000"]
            assert not [name for name in stored(store) if name.endswith(".unfinished")]
            store.remove("step_3000")
    assert len(whole) == 2
    assert point > 15, "an upload is more than a few calls"
    assert content(store.download("step_1000", tmp_path / "back")) == content(first)


def test_the_next_upload_removes_remains(url, run):
    """The next upload removes the remains of an interrupted one."""
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


def test_the_next_upload_finishes_an_interrupted_removal(url, run):
    """An interrupted removal leaves a complete checkpoint or none, and the next upload finishes it."""
    folder, other = run.checkpoint(), run.checkpoint()
    store = RemoteStore(url)
    for point in itertools.count():
        store.upload(folder)
        removing = RemoteStore(url)
        spy = Spy(removing, ("pipe_file", "rm_file", "rm"), point)
        with contextlib.suppress(KeyboardInterrupt):
            removing.remove("step_1000")
        left = stored(store)
        assert store.names() == (["step_1000"] if f"step_1000/{MANIFEST}" in left else [])
        if store.names():
            assert {name.partition("/")[2] for name in left if "/" in name} == set(content(folder))
            store.remove("step_1000")
        store.upload(other)
        assert not [name for name in stored(store) if not name.startswith("step_2000/")]
        store.remove("step_2000")
        if not spy.failed:
            break
    assert point >= 3
    assert stored(store) == []


def test_other_files_at_the_url_are_left_alone(url, run):
    """Files and folders that aren't checkpoints are neither listed nor removed."""
    store = RemoteStore(url)
    store.upload(run.checkpoint())
    for name in ("step_7", "step_x"):
        store.fs.makedirs(f"{store.root}/{name}", exist_ok=True)
    store.fs.pipe_file(f"{store.root}/step_7/state.json", b"an older version's")
    store.fs.pipe_file(f"{store.root}/step_x/{MANIFEST}", b"not a step")
    store.fs.pipe_file(f"{store.root}/notes.txt", b"the good one")
    store.upload(run.checkpoint())
    assert store.names() == ["step_1000", "step_2000"]
    others = [name for name in stored(store) if not name.startswith(("step_1000/", "step_2000/"))]
    assert others == ["notes.txt", "step_7/state.json", f"step_x/{MANIFEST}"]


def test_damaged_remote_files_are_rejected_by_name(url, run, tmp_path):
    """Downloading a cut, flipped or missing file raises an error that names it and leaves nothing."""
    store = RemoteStore(url)
    folder = run.checkpoint()
    store.upload(folder)
    (tmp_path / "back").mkdir()
    for name in ("state.pt", "config.yaml", "buffer/shard_0/buffer.json", "buffer/shard_0/00_00000.bin", MANIFEST):
        whole = store.fs.cat_file(f"{store.root}/step_1000/{name}")
        for damaged in (whole[:-1], whole[:7] + bytes([whole[7] ^ 4]) + whole[8:], None):
            if damaged is None:
                store.fs.rm_file(f"{store.root}/step_1000/{name}")
            else:
                store.fs.pipe_file(f"{store.root}/step_1000/{name}", damaged)
            missing = damaged is None and name == MANIFEST
            with pytest.raises(RemoteError if missing else DamagedCheckpointError) as caught:
                store.download("step_1000", tmp_path / "back")
            assert str(caught.value).startswith(f"{url}/step_1000" + ("" if missing else f"/{name}: "))
            assert list((tmp_path / "back").iterdir()) == []
            store.fs.pipe_file(f"{store.root}/step_1000/{name}", whole)
    store.download("step_1000", tmp_path / "back")


def test_a_damaged_remote_checkpoint_does_not_block_the_next(url, run, tmp_path):
    """A checkpoint is uploaded completely if the previous one is damaged."""
    store = RemoteStore(url)
    store.upload(run.checkpoint())
    for name in ("buffer/shard_0/buffer.json", MANIFEST):
        store.fs.pipe_file(f"{store.root}/step_1000/{name}", b"{")
        folder = run.checkpoint()
        store.upload(folder)
        assert content(store.download(folder.name, tmp_path / "back")) == content(folder)
        store.remove(folder.name)


def test_a_missing_remote_file_is_sent_instead_of_copied(url, run, tmp_path):
    """A file that the previous checkpoint should hold but doesn't is sent."""
    store = RemoteStore(url)
    store.upload(run.checkpoint())
    store.fs.rm_file(f"{store.root}/step_1000/buffer/shard_0/00_00000.bin")
    folder = run.checkpoint()
    store.upload(folder)
    assert content(store.download(folder.name, tmp_path / "back")) == content(folder)


def test_everything_is_sent_if_the_file_system_cannot_copy(run, tmp_path):
    """On a file system without copies, all files are sent."""
    store = RemoteStore(f"file://{tmp_path}/far")
    store.upload(run.checkpoint())

    def copy_fails(*args, **kwargs):
        """Fail like a file system without copies."""
        raise NotImplementedError

    def send(source, target):
        """Copy a local file and create its folder."""
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)

    store.fs.cp_file = copy_fails
    store.fs.put_file = send
    folder = run.checkpoint()
    store.upload(folder)
    assert content(RemoteStore(store.url).download(folder.name, tmp_path / "back")) == content(folder)


def test_a_truncated_upload_is_no_checkpoint(url, run, tmp_path):
    """A file that arrives truncated raises an error, and the checkpoint isn't complete."""
    store = RemoteStore(url)
    put_file = store.fs.put_file
    (tmp_path / "nothing").touch()

    def put_short(source, target):
        """Upload an empty file in place of `state.pt`."""
        put_file(str(tmp_path / "nothing") if target.endswith("state.pt") else source, target)

    store.fs.put_file = put_short
    with pytest.raises(RemoteError, match=r"step_1000/state\.pt: 0 bytes instead of 9000 arrived"):
        store.upload(run.checkpoint())
    assert store.names() == []


def test_a_download_replaces_the_local_checkpoint(url, run, tmp_path):
    """A download replaces the local checkpoint of its name and the remains of an earlier download."""
    store = RemoteStore(url)
    folder = run.checkpoint()
    whole = content(folder)
    store.upload(folder)
    (folder / "state.pt").write_bytes(b"damaged")
    (folder.parent / ".step_1000.part" / "remains").mkdir(parents=True)
    store.download("step_1000", folder.parent)
    assert content(folder) == whole
    assert [path.name for path in folder.parent.iterdir()] == ["step_1000"]


def test_a_failed_download_leaves_the_local_checkpoint(url, run, tmp_path):
    """A failed download leaves the local checkpoint intact."""
    folder = run.checkpoint()
    RemoteStore(url).upload(folder)
    for point in range(0, 20, 3):
        store = RemoteStore(url)
        spy = Spy(store, ("get_file", "cat_file"), point, OSError)
        with pytest.raises(RemoteError, match="step_1000 can't be downloaded: OSError: the network is gone"):
            store.download("step_1000", folder.parent)
        assert spy.failed
        assert [path.name for path in folder.parent.iterdir()] == ["step_1000"]
        manifest.verify(folder)


def test_a_download_to_a_full_disk_raises_and_leaves_nothing(url, run, small_disk):  # noqa: F811
    """A download to a full disk raises an error and leaves no files."""
    store = RemoteStore(url)
    store.upload(run.checkpoint())
    disk = small_disk(1)
    ballast = disk.fill(leave=2 * 4096)
    with pytest.raises(RemoteError, match=r"step_1000 can't be downloaded: .*No space left"):
        store.download("step_1000", disk.folder)
    assert [path.name for path in disk.folder.iterdir()] == ["ballast"]
    ballast.unlink()
    store.download("step_1000", disk.folder)


def test_read_text_returns_verified_text_files(url, run):
    """`read_text` returns a text file of a checkpoint and rejects missing, binary and damaged ones."""
    store = RemoteStore(url)
    store.upload(run.checkpoint())
    assert store.read_text("step_1000", "config.yaml") == "# after 1000 steps: α\n"
    with pytest.raises(RemoteError, match=r"nothing\.yaml: the checkpoint has no such file"):
        store.read_text("step_1000", "nothing.yaml")
    with pytest.raises(RemoteError, match="no such file"):
        store.read_text("step_1000", "../notes.txt")
    with pytest.raises(RemoteError, match=r"step_2000: no complete checkpoint"):
        store.read_text("step_2000", "config.yaml")
    with pytest.raises(RemoteError, match=r"state\.pt: isn.t a text file"):
        store.read_text("step_1000", "state.pt")
    store.fs.pipe_file(f"{store.root}/step_1000/config.yaml", b"env: evil")
    with pytest.raises(DamagedCheckpointError, match=r"config\.yaml: is damaged"):
        store.read_text("step_1000", "config.yaml")


def test_incomplete_checkpoints_are_not_uploaded(run, tmp_path):
    """A folder without a manifest isn't uploaded."""
    store = RemoteStore(f"file://{tmp_path}/far")
    folder = run.checkpoint()
    (folder / MANIFEST).unlink()
    with pytest.raises(FileNotFoundError, match="not a complete checkpoint"):
        store.upload(folder)
    assert not (tmp_path / "far").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "step_", "step_1/..", "step_-1", "checkpoints", "step_١", "step_1\n"])
def test_names_of_other_folders_are_rejected(run, tmp_path, name):
    """Names that aren't those of checkpoints raise an error before anything is removed."""
    store = RemoteStore(f"file://{tmp_path}/far")
    store.upload(run.checkpoint())
    for call in (store.remove, lambda name: store.download(name, tmp_path), lambda name: store.upload(tmp_path / name)):
        with pytest.raises(ValueError, match=r"a checkpoint.s name|not a complete checkpoint"):
            call(name)
    assert store.names() == ["step_1000"]


def test_removing_a_missing_checkpoint_does_nothing(url):
    """Removing a checkpoint that doesn't exist does nothing."""
    RemoteStore(url).remove("step_5")
    assert stored(RemoteStore(url)) == []


# --- network errors ---


def test_transient_errors_are_retried(run, tmp_path):
    """Calls are retried after a transient error."""
    folder = run.checkpoint()
    for error in (ConnectionResetError, TimeoutError):
        store = RemoteStore(f"file://{tmp_path}/{error.__name__}")
        for kind in (*WRITES, *OTHER_CALLS):
            Spy(store, (kind,), 0, error, times=1)  # some call each other
        store.upload(folder)
        assert store.names() == ["step_1000"]
        assert content(store.download("step_1000", tmp_path / "back")) == content(folder)


def test_a_store_that_cannot_be_listed_is_not_empty(url, run):
    """A store that can't be listed raises an error after the retries; it doesn't count as empty."""
    RemoteStore(url).upload(run.checkpoint())
    for kind in ("ls", "info"):
        for error in (ConnectionError, PermissionError):
            store = RemoteStore(url)
            spy = Spy(store, (kind,), 0, error)
            with pytest.raises(RemoteError, match=f"can't be listed: {error.__name__}: the network is gone"):
                store.names()
            tries = 1 if error is PermissionError or url.startswith("s3") else 4
            assert len(spy.calls) == tries  # s3fs retries itself


def test_check_leaves_no_files(url):
    """`check` succeeds on a usable store and leaves no files."""
    store = RemoteStore(url)
    store.check()
    assert stored(store) == []


def test_check_rejects_a_store_that_is_not_writable(s3, tmp_path):
    """`check` raises an error if the store isn't writable."""
    (tmp_path / "file").touch()
    for url in (f"{s3}-missing/runs", f"file://{tmp_path}/file/runs"):
        with pytest.raises(RemoteError, match="isn't writable") as caught:
            RemoteStore(url).check()
        assert str(caught.value).startswith(f"{url}: ")


def test_errors_and_logs_contain_no_secrets(s3, run, monkeypatch, caplog):
    """Errors and logs contain neither keys nor credentials of a URL."""
    caplog.set_level(logging.INFO)
    missing, odd = RemoteStore(f"{s3}-missing/runs"), RemoteStore(f"{s3}/runs")

    def fail_with_secrets(*args, **kwargs):
        """Raise an error whose message contains secrets."""
        raise OSError("no answer from http://me:hushhushhush@127.0.0.1:9/bucket?X-Amz-Signature=hushhushhush at all")

    monkeypatch.setattr(odd.fs, "ls", fail_with_secrets)
    for attempt in (missing.check, lambda: missing.upload(run.checkpoint()), odd.names):
        with pytest.raises(RemoteError) as caught:
            attempt()
        for text in (str(caught.value), caplog.text):
            assert "hushhushhush" not in text
            assert "AKIAKNOWNTOTEST" not in text
    assert "no answer from http:…127.0.0.1:9/bucket… at all" in str(caught.value), "the error must give the cause"


def test_a_bucket_stores_multipart_files(s3, run, tmp_path):
    """A file larger than one S3 request is uploaded, copied and downloaded."""
    folder = run.checkpoint()
    (folder / "big").write_bytes(np.random.default_rng(0).bytes(60 * 2**20))  # more than s3fs sends in one request
    manifest.write(folder, {})
    store = RemoteStore(s3)
    store.upload(folder)
    shutil.copytree(folder, tmp_path / "step_2000")
    spy = Spy(store)
    store.upload(tmp_path / "step_2000")
    assert not spy.of("put_file")
    assert content(store.download("step_2000", tmp_path / "back")) == content(folder)


# --- URLs ---


@pytest.mark.parametrize(
    ("url", "message"),
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
def test_an_invalid_url_is_rejected_with_a_valid_one(url, message):
    """An invalid URL raises an error that shows a valid form."""
    with pytest.raises(ValueError) as caught:
        RemoteStore(url)
    assert message in str(caught.value)


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
def test_a_url_with_a_secret_is_rejected_without_repeating_it(url):
    """A URL with a secret raises an error that doesn't contain the secret."""
    with pytest.raises(ValueError, match="keys are taken from the environment") as caught:
        RemoteStore(url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("scheme", "package", "extra"), [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs"), ("gcs", "gcsfs", "gcs")]
)
def test_a_missing_package_is_named_with_its_extra(scheme, package, extra):
    """A missing package raises an error with the command that installs it."""
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
    raise SystemExit("the package was imported")
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_module_imports_neither_torch_nor_ray():
    """Importing the module imports neither torch, Ray nor s3fs."""
    program = "import sys, sheeprl.checkpoint.remote; assert not {'torch', 'ray', 's3fs'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
