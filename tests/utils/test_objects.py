"""Objects at a URL: errors without secrets, transient errors, and the forms of URLs."""

import logging
import subprocess
import sys

import pytest

from sheeprl.utils import objects
from sheeprl.utils.objects import Objects, StorageError
from tests.helpers.buckets import new_bucket, s3_server


@pytest.fixture
def s3(monkeypatch):
    """Yield the URL of a new bucket."""
    with s3_server() as url:
        yield new_bucket(url, monkeypatch)


def test_errors_and_logs_contain_no_secrets(s3, monkeypatch, caplog):
    """Errors and logs contain neither keys nor credentials of a URL."""
    caplog.set_level(logging.INFO)
    missing, odd = Objects(f"{s3}-missing/runs"), Objects(f"{s3}/runs")

    def fail_with_secrets(*args, **kwargs):
        """Raise an error whose message contains secrets."""
        raise OSError("no answer from http://me:hushhushhush@127.0.0.1:9/bucket?X-Amz-Signature=hushhushhush at all")

    monkeypatch.setattr(odd.fs, "find", fail_with_secrets)
    for attempt in (lambda: missing.write("a", b"1"), lambda: odd.listing("a")):
        with pytest.raises(StorageError) as caught:
            attempt()
        for text in (str(caught.value), caplog.text):
            assert "hushhushhush" not in text
            assert "AKIAKNOWNTOTEST" not in text
    assert "no answer from http:…127.0.0.1:9/bucket… at all" in str(caught.value), "the error must give the cause"


def test_an_object_is_created_once(tmp_path):
    """Only the first of two processes creates an object; no temporary file remains."""
    store = Objects(str(tmp_path / "store"))
    assert store.create("a/b", b"1") and not store.create("a/b", b"2")
    assert store.read("a/b") == b"1" and [path.name for path in (tmp_path / "store" / "a").iterdir()] == ["b"]


def test_transient_errors_are_retried(tmp_path, monkeypatch):
    """A call that fails by a broken connection is repeated, three times at most."""
    monkeypatch.setattr(objects, "WAITS", (0.0, 0.0, 0.0))
    store = Objects(str(tmp_path))
    store.write("a", b"1")
    original, calls = store.fs.cat_file, []

    def fail(*args, times):
        """Fail the first calls."""
        calls.append(args)
        if len(calls) <= times:
            raise ConnectionResetError("the network is gone")
        return original(*args)

    monkeypatch.setattr(store.fs, "cat_file", lambda *args: fail(*args, times=3))
    assert store.read("a") == b"1" and len(calls) == 4
    calls.clear()
    monkeypatch.setattr(store.fs, "cat_file", lambda *args: fail(*args, times=9))
    with pytest.raises(StorageError, match="the network is gone"):
        store.read("a")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("runs", "'runs' is neither a URL nor an absolute path; use s3://bucket/prefix or /mnt/share"),
        ("", "neither a URL nor an absolute path"),
        ("s3:/bucket", "neither a URL nor an absolute path"),
        ("simplecache::s3://bucket", "neither a URL nor an absolute path"),
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
        Objects(url)
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
        Objects(url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("scheme", "package", "extra"), [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs"), ("gcs", "gcsfs", "gcs")]
)
def test_a_missing_package_is_named_with_its_extra(scheme, package, extra):
    """A missing package raises an error with the command that installs it."""
    program = f"""
import sys
sys.modules[{package!r}] = None  # as if it weren't installed
from sheeprl.utils.objects import Objects
from sheeprl.utils.installation import install_command
try:
    Objects("{scheme}://bucket/runs")
except ValueError as error:
    assert install_command("{extra}") in str(error), error
else:
    raise SystemExit("the package was imported")
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_module_imports_neither_torch_nor_ray():
    """Importing the module imports neither torch, Ray nor fsspec."""
    program = "import sys, sheeprl.utils.objects; assert not {'torch', 'ray', 's3fs', 'fsspec'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
