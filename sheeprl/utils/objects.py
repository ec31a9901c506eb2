"""Objects at a URL: in a bucket (`s3://`, `gs://`), on a share (`file://` or a path), or in memory, for tests.

An object appears whole or not at all. The packages of the file systems read keys and endpoints from the environment and
from their own files.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sheeprl.utils.errors import one_line
from sheeprl.utils.files import sync_folder, write_synced
from sheeprl.utils.installation import install_command

Item = TypeVar("Item")
Result = TypeVar("Result")
EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "abfs": "azure",
    "abfss": "azure",
    "az": "azure",
}
"""Extra of this package that installs the file system, by URL scheme."""
RETRYING = ("s3", "s3a", "gs", "gcs")  # schemes whose packages retry failed calls
TRANSIENT = (ConnectionError, TimeoutError, asyncio.TimeoutError)  # asyncio has its own TimeoutError before Python 3.11
WAITS = (0.5, 1.0, 2.0)  # seconds before each retry
AT_ONCE = 8  # hides the latency of a bucket; each transfer takes megabytes of memory


class StorageError(OSError):
    """Raised when an operation on the objects at a URL fails."""

    def __str__(self) -> str:
        """Return the message without an error number."""
        return str(self.args[0])


class MissingObjectError(StorageError):
    """Raised when an object doesn't exist."""


class Objects:
    """Objects below a URL, by name.

    Args:
        url: a folder on any file system that fsspec supports, such as `s3://bucket/prefix`, or an absolute path.

    Raises:
        ValueError: the URL is invalid, or its package is missing.
        StorageError: the file system can't be opened, for example without keys.
    """

    def __init__(self, url: str) -> None:
        """Open the file system."""
        from fsspec.core import url_to_fs  # slow to import

        self.url = as_url(url)
        self.scheme = check_url(self.url)
        # Without a cache of listings: changes by other processes must be visible.
        options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
        self.local = self.scheme in ("file", "local")
        if self.local:  # buckets have no folders
            options["auto_mkdir"] = True
        with self._explained("can't be opened"):
            self.fs, root = url_to_fs(self.url, **options)
        self.root = root.rstrip("/")

    def read(self, name: str) -> bytes:
        """Return the content of an object.

        Raises:
            MissingObjectError: it doesn't exist.
            StorageError: it can't be read.
        """
        with self._explained(f"{name} can't be read"):
            return bytes(self._call(self.fs.cat_file, self._path(name)))

    def read_all(self, names: Sequence[str]) -> Iterator[bytes]:
        """Yield the content of several objects in order. A few are read ahead."""
        if not self.fs.async_impl:
            yield from map(self.read, names)
            return
        with ThreadPoolExecutor(AT_ONCE) as pool:
            ahead = [pool.submit(self.read, name) for name in names[:AT_ONCE]]
            for number in range(len(names)):
                yield ahead.pop(0).result()
                if number + AT_ONCE < len(names):
                    ahead.append(pool.submit(self.read, names[number + AT_ONCE]))

    def write(self, name: str, data: bytes) -> None:
        """Write an object, or replace it.

        Raises:
            StorageError: it can't be written.
        """
        with self._explained(f"{name} can't be written", "the bucket doesn't exist"):
            if self.local:
                with _beside(Path(self._path(name)), data) as partial:
                    partial.replace(self._path(name))
            else:
                self._call(self.fs.pipe_file, self._path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Write an object unless it exists; of several processes, one succeeds.

        Returns:
            False if the object exists already.

        Raises:
            StorageError: it can't be written.
        """
        with self._explained(f"{name} can't be written", "the bucket doesn't exist"):
            try:
                if self.local:
                    with _beside(Path(self._path(name)), data) as partial:
                        os.link(partial, self._path(name))
                elif self.scheme == "memory":
                    if self.fs.exists(self._path(name)):
                        return False
                    self._call(self.fs.pipe_file, self._path(name), data)
                else:
                    self.fs.pipe_file(self._path(name), data, mode="create")  # not repeated: a retry would see itself
            except FileExistsError:
                return False
        return True

    def listing(self, prefix: str) -> dict[str, tuple[int, float]]:
        """Return size in bytes and age in seconds of the objects in a folder below the URL, by name without the folder.

        Raises:
            StorageError: the folder can't be listed.
        """
        with self._explained(f"{prefix} can't be listed"):
            folder = self._path(prefix)
            try:
                found = self._call(self.fs.find, folder, detail=True)
            except FileNotFoundError:  # nothing has been written yet
                return {}
        now = time.time()
        return {
            path.lstrip("/")[len(folder.lstrip("/")) + 1 :]: (int(entry["size"]), now - _modified(entry, now))
            for path, entry in found.items()
            if not path.rpartition("/")[2].startswith(".")
        }

    def folders(self) -> list[str]:
        """Return the names of the folders directly below the URL, in alphabetical order.

        Raises:
            MissingObjectError: nothing exists at the URL.
            StorageError: the URL can't be listed.
        """
        with self._explained("can't be listed"):
            found = self._call(self.fs.ls, self.root, detail=True)
        return sorted(entry["name"].rstrip("/").rpartition("/")[2] for entry in found if entry["type"] == "directory")

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects, if they exist.

        Raises:
            StorageError: an object can't be removed.
        """

        def remove(name: str) -> None:
            """Remove one object."""
            with suppress(FileNotFoundError):
                self._call(self.fs.rm_file, self._path(name))

        with self._explained("objects can't be removed"):
            self.each(remove, list(names))

    def each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Call a function per item, in parallel on asynchronous file systems; wait for all calls after an error."""
        if not self.fs.async_impl:
            return [function(item) for item in items]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(function, items))

    def _path(self, name: str) -> str:
        """Return the path of an object in the file system."""
        return f"{self.root}/{name}"

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the file system, with retries after transient errors; all calls are idempotent."""
        return _retry(partial(function, *args, **kwargs), () if self.scheme in RETRYING else WAITS)

    @contextmanager
    def _explained(self, problem: str, missing: str = "it doesn't exist") -> Iterator[None]:
        """Convert the errors of all file systems to StorageError, without secrets.

        Args:
            problem: what failed.
            missing: meaning of an error about something that doesn't exist.
        """
        try:
            yield
        except StorageError:
            raise
        except FileNotFoundError as error:
            raise MissingObjectError(f"{self.url}: {problem}: {missing}") from error
        except Exception as error:
            # The address of an endpoint may contain a password or a signature.
            detail = re.sub(r"//[^/\s@]*@|\?\S*", "…", one_line(error))
            raise StorageError(f"{self.url}: {problem}: {type(error).__name__}: {detail}") from error


def content_name(data: bytes | memoryview) -> str:
    """Return the name of an object with this content: a digest of 20 bytes in hexadecimal."""
    return hashlib.blake2b(data, digest_size=20).hexdigest()


def as_url(place: str) -> str:
    """Return the URL of a place: a path becomes a `file://` URL."""
    if place.startswith("/"):
        return f"file://{place.rstrip('/')}"
    return place if place.strip("/").endswith(":") else place.rstrip("/")  # `s3://` stays a URL, for its error


def check_url(url: str) -> str:
    """Check the form of a URL and the package for its scheme, without a connection.

    Returns:
        The scheme.

    Raises:
        ValueError: the URL isn't a folder's, or its package is missing. The message contains no secrets.
    """
    scheme, separator, rest = url.partition("://")
    plain = separator and "::" not in url
    if "@" in (rest.partition("/")[0] if plain else url) or re.search(r"[?#*\[\]]", url):
        raise ValueError(
            "the URL must not contain a user, password, query or wildcard (keys are taken from the environment); "
            "use a URL like s3://bucket/prefix"
        )
    if not plain:
        raise ValueError(f"{url!r} is neither a URL nor an absolute path; use s3://bucket/prefix or /mnt/share")
    if scheme in ("file", "local") and not rest.startswith("/"):
        raise ValueError(f"{url!r} is a relative path; use file:///{rest} for the folder /{rest}")
    if not rest.strip("/") and scheme != "memory":
        raise ValueError(f"{url!r} names no folder; use a URL like {scheme}://bucket/prefix")
    import fsspec  # slow to import

    try:
        fsspec.get_filesystem_class(scheme)
    except ValueError:
        raise ValueError(f"{url!r}: unknown scheme {scheme}; use s3://, gs:// or file://") from None
    except ImportError as error:
        remedy = install_command(EXTRAS[scheme]) if scheme in EXTRAS else one_line(error)
        raise ValueError(f"{url!r} needs a package that can't be imported ({one_line(error)}): {remedy}") from error
    return scheme


@contextmanager
def _beside(path: Path, data: bytes) -> Iterator[Path]:
    """Write and sync a temporary file beside a path; remove it at the end, and sync the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        write_synced(partial, data)
        yield partial
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def _modified(entry: dict[str, Any], unknown: float) -> float:
    """Return the time of an object's last change in seconds since 1970, by the names of several file systems."""
    found = next((entry[key] for key in ("LastModified", "mtime", "updated", "created") if entry.get(key)), unknown)
    if isinstance(found, str):
        found = datetime.fromisoformat(found.replace("Z", "+00:00"))
    return found.timestamp() if isinstance(found, datetime) else float(found)


def _retry(call: Callable[[], Any], waits: Sequence[float]) -> Any:
    """Call a function, again after each wait while the error is transient."""
    try:
        return call()
    except TRANSIENT:
        if not waits:
            raise
        time.sleep(waits[0])
    return _retry(call, waits[1:])
