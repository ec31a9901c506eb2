"""Copies of checkpoints at a URL: in a bucket (`s3://`, `gs://`), on a share (`file://`), or in memory, for tests.

A checkpoint is `<url>/step_<n>/…`. Its manifest is written last and removed first, so a folder without a manifest isn't
a checkpoint. While a checkpoint is being written or removed, an empty file `.step_<n>.unfinished` exists beside it. The
mark distinguishes the remains of an interrupted operation from unrelated folders; the next upload clears the remains.

The packages of the file systems read keys and endpoints from the environment and from their own files.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.core import url_to_fs

from sheeprl.checkpoint.files import step_of
from sheeprl.checkpoint.manifest import (
    MANIFEST,
    DamagedCheckpointError,
    FileEntry,
    Manifest,
    chunks_of,
    parse,
    read,
    verify,
)
from sheeprl.config.schema import Config
from sheeprl.utils.errors import ConfigError, one_line
from sheeprl.utils.files import replace_folder, sync_file, sync_folder, write_atomically
from sheeprl.utils.installation import install_command

Item = TypeVar("Item")
Result = TypeVar("Result")
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}  # extras of this package, by URL scheme
RETRYING = ("s3", "s3a", "gs", "gcs")  # schemes whose packages retry failed calls
TRANSIENT = (ConnectionError, TimeoutError, asyncio.TimeoutError)  # asyncio has its own TimeoutError before Python 3.11
WAITS = (0.5, 1.0, 2.0)  # seconds before each retry
FILES_AT_ONCE = 8  # hides the latency of a bucket; each transfer takes tens of megabytes of memory


class RemoteError(OSError):
    """Raised when an operation on the remote store fails."""

    def __str__(self) -> str:
        """Return the message without an error number."""
        return str(self.args[0])


class RemoteStore:
    """Checkpoints at a URL; only one process may write at a time.

    Args:
        url: a folder on any file system that fsspec supports, such as `s3://bucket/prefix`.

    Raises:
        ValueError: the URL is invalid, or its package is missing.
        RemoteError: the file system can't be opened, for example without keys.
    """

    def __init__(self, url: str) -> None:
        """Open the file system."""
        self.url = url.rstrip("/")
        self.scheme = check_url(url)
        # Without a cache of listings: changes by other processes must be visible.
        options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
        self.local = self.scheme in ("file", "local")
        if self.local:  # buckets have no folders
            options["auto_mkdir"] = True
        with self._explained("can't be opened"):
            self.fs, root = url_to_fs(url, **options)
        self.root = root.rstrip("/")

    def check(self) -> None:
        """Write, read and remove a small file to check that the store is usable.

        Raises:
            RemoteError: the store isn't writable.
        """
        path = f"{self.root}/.writable"
        with self._explained("isn't writable"):
            self._pipe(path, b"yes")
            if self._cat(path) != b"yes":
                raise RemoteError(f"{self.url}: a file reads back with other content")
            self._call(self.fs.rm_file, path)

    def names(self) -> list[str]:
        """Return the names of the complete checkpoints, oldest first.

        Raises:
            RemoteError: the store can't be listed.
        """
        with self._explained("can't be listed"):
            names = [name for name in self._listing("directory") if _is_name(name)]
            complete = self._each(self._is_complete, names)
        found = (Path(name) for name, is_complete in zip(names, complete, strict=True) if is_complete)
        return [path.name for path in sorted(found, key=step_of)]

    def upload(self, folder: Path) -> None:
        """Upload a checkpoint under the name of its folder, and replace a different one of this name.

        A file whose path, size and checksum equal those in the newest remote checkpoint is copied within the store
        instead of sent. The folder must not change during the upload.

        Raises:
            FileNotFoundError: the folder isn't a complete checkpoint.
            DamagedCheckpointError: its manifest is damaged.
            RemoteError: the upload failed. The store doesn't list this checkpoint then; others are unchanged.
        """
        name = _checked(folder.name)
        manifest = read(folder)
        raw = (folder / MANIFEST).read_bytes()
        with self._explained(f"{name} can't be uploaded"):
            if self._is_complete(name) and self._cat(self._path(name, MANIFEST)) == raw:
                return
            self._clear_remains()
            if self._is_complete(name):
                self._remove(name)
            shared = self._shared(folder, manifest)
            with self._unfinished(name):
                self._each(lambda file: self._send(folder, name, file, shared), manifest.files)
                self._check_sizes(name, manifest)
                self._publish(name, raw)

    def download(self, name: str, into: Path) -> Path:
        """Download and verify a checkpoint, then replace the local one of its name.

        Args:
            name: as in `names`.
            into: the parent folder of the checkpoint.

        Returns:
            The folder of the checkpoint.

        Raises:
            DamagedCheckpointError: a file is missing or altered.
            RemoteError: the checkpoint doesn't exist or can't be downloaded.
        """
        final, partial = into / _checked(name), into / f".{name}.part"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            with self._explained(f"{name} can't be downloaded"):
                raw, manifest = self._read_manifest(name)
                for parent in {(partial / file).parent for file in (MANIFEST, *manifest.files)}:
                    parent.mkdir(parents=True, exist_ok=True)
                self._each(lambda file: self._fetch(name, file, partial / file), manifest.files)
                write_atomically(partial / MANIFEST, raw)
                self._verify(name, partial)
                replace_folder(final, partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return final

    def remove(self, name: str) -> None:
        """Remove a checkpoint or its remains, the manifest first.

        Raises:
            RemoteError: a file can't be removed.
        """
        with self._explained(f"{_checked(name)} can't be removed"):
            self._remove(name)

    def read_text(self, name: str, file: str) -> str:
        """Return the content of a small text file of a checkpoint.

        Args:
            name: as in `names`.
            file: relative to the checkpoint.

        Raises:
            DamagedCheckpointError: the file is altered.
            RemoteError: the file doesn't exist or can't be read.
        """
        path = f"{self.url}/{_checked(name)}/{file}"
        with self._explained(f"{file} of {name} can't be read"):
            _, manifest = self._read_manifest(name)
            if file not in manifest.files:
                raise RemoteError(f"{path}: the checkpoint has no such file")
            data = self._cat(self._path(name, file))
        if FileEntry(len(data), zlib.crc32(data)) != manifest.files[file]:
            raise DamagedCheckpointError(path, "is damaged: its size or checksum differs")
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise RemoteError(f"{path}: isn't a text file") from error

    # --- steps of an upload, download and removal ---

    def _read_manifest(self, name: str) -> tuple[bytes, Manifest]:
        """Return the manifest of a remote checkpoint, as bytes and parsed."""
        try:
            raw = self._cat(self._path(name, MANIFEST))
        except FileNotFoundError:
            raise RemoteError(f"{self.url}/{name}: no complete checkpoint has this name") from None
        return raw, parse(raw, f"{self.url}/{name}/{MANIFEST}")

    def _shared(self, folder: Path, manifest: Manifest) -> dict[str, str]:
        """Return the remote paths of identical files in the newest remote checkpoint, by file name."""
        found = self.names()
        if not found:
            return {}
        newest = found[-1]
        try:
            _, before = self._read_manifest(newest)
            theirs = _identities(before, lambda file: self._cat(self._path(newest, file)), f"{self.url}/{newest}")
        except (DamagedCheckpointError, FileNotFoundError):
            return {}  # without reuse, every file is sent
        ours = _identities(manifest, lambda file: (folder / file).read_bytes(), str(folder))
        return {file: self._path(newest, file) for file, identity in ours.items() if theirs.get(file) == identity}

    def _send(self, folder: Path, name: str, file: str, shared: dict[str, str]) -> None:
        """Copy a file within the store if possible, send it otherwise, and sync it on a local file system."""
        target = self._path(name, file)
        if file not in shared or not self._copied(shared[file], target):
            self._call(self.fs.put_file, str(folder / file), target)
        if self.local:
            sync_file(Path(target))

    def _copied(self, source: str, target: str) -> bool:
        """Copy a file within the store; return False if that is impossible."""
        try:
            self._call(self.fs.cp_file, source, target)
        except (NotImplementedError, FileNotFoundError):
            return False
        return True

    def _fetch(self, name: str, file: str, target: Path) -> None:
        """Download one file."""
        try:
            self._call(self.fs.get_file, self._path(name, file), str(target))
        except FileNotFoundError as error:
            raise DamagedCheckpointError(f"{self.url}/{name}/{file}", "is missing") from error

    def _verify(self, name: str, folder: Path) -> None:
        """Verify a download; errors name the remote file, because the local one is removed."""
        try:
            verify(folder)
        except DamagedCheckpointError as error:
            file = Path(error.file).relative_to(folder).as_posix()
            raise DamagedCheckpointError(f"{self.url}/{name}/{file}", error.problem) from error

    def _check_sizes(self, name: str, manifest: Manifest) -> None:
        """Check the sizes of the uploaded files against the manifest."""
        folder = self._path(name)
        listed = self._call(self.fs.find, folder, detail=True)
        sizes = {path[len(folder) + 1 :]: info["size"] for path, info in listed.items()}
        for file, entry in manifest.files.items():
            if sizes.get(file) != entry.bytes:
                raise RemoteError(
                    f"{self.url}/{name}/{file}: {sizes.get(file, 0)} bytes instead of {entry.bytes} arrived"
                )

    def _publish(self, name: str, raw: bytes) -> None:
        """Write a manifest atomically. A bucket writes every object atomically, a folder doesn't."""
        path = self._path(name, MANIFEST)
        if not self.local:
            return self._pipe(path, raw)
        for folder in (each for each in Path(path).parent.rglob("*") if each.is_dir()):
            sync_folder(folder)
        write_atomically(Path(path), raw)
        sync_folder(Path(self.root))

    @contextmanager
    def _unfinished(self, name: str) -> Iterator[None]:
        """Mark a checkpoint as unfinished until the block succeeds."""
        mark = f"{self.root}/.{name}.unfinished"
        self._pipe(mark, b"")
        yield
        self._call(self.fs.rm_file, mark)

    def _clear_remains(self) -> None:
        """Remove the remains of interrupted uploads and removals."""
        marks = (re.fullmatch(r"\.(step_\d+)\.unfinished", name) for name in self._listing("file"))
        for name in [mark[1] for mark in marks if mark]:
            if self._is_complete(name):
                self._call(self.fs.rm_file, f"{self.root}/.{name}.unfinished")
            else:
                self._remove(name)

    def _remove(self, name: str) -> None:
        """Remove a checkpoint, the manifest first."""
        with self._unfinished(name):
            with suppress(FileNotFoundError):
                self._call(self.fs.rm_file, self._path(name, MANIFEST))
            with suppress(FileNotFoundError):
                self._call(self.fs.rm, self._path(name), recursive=True)

    def _listing(self, kind: str) -> list[str]:
        """Return the names of the files or directories at the root."""
        try:
            entries = self._call(self.fs.ls, self.root, detail=True)
        except FileNotFoundError:  # nothing has been written yet
            return []
        return [entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == kind]

    def _is_complete(self, name: str) -> bool:
        """Return True if a checkpoint has a manifest."""
        # fs.exists returns False for every error; a resumed run might then start from scratch.
        try:
            return bool(self._call(self.fs.info, self._path(name, MANIFEST))["type"] == "file")
        except FileNotFoundError:
            return False

    # --- the file system ---

    def _path(self, *parts: str) -> str:
        """Return a path below the root."""
        return "/".join((self.root, *parts))

    def _pipe(self, path: str, data: bytes) -> None:
        """Write a small file."""
        self._call(self.fs.pipe_file, path, data)

    def _cat(self, path: str) -> bytes:
        """Return the content of a small file."""
        return bytes(self._call(self.fs.cat_file, path))

    def _each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Call a function per item, in parallel on asynchronous file systems; wait for all calls after an error."""
        if not self.fs.async_impl:
            return [function(item) for item in items]
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            return list(pool.map(function, items))

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the file system, with retries after transient errors; all calls are idempotent."""
        return _retry(partial(function, *args, **kwargs), () if self.scheme in RETRYING else WAITS)

    @contextmanager
    def _explained(self, problem: str) -> Iterator[None]:
        """Convert the errors of all file systems to RemoteError, without secrets."""
        try:
            yield
        except (RemoteError, DamagedCheckpointError):
            raise
        except Exception as error:
            # The address of an endpoint may contain a password or a signature.
            detail = re.sub(r"//[^/\s@]*@|\?\S*", "…", one_line(error))
            raise RemoteError(f"{self.url}: {problem}: {type(error).__name__}: {detail}") from error


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
        raise ValueError(f"{url!r} isn't the URL of a folder; use a URL like s3://bucket/prefix or file:///mnt/share")
    if scheme in ("file", "local") and not rest.startswith("/"):
        raise ValueError(f"{url!r} is a relative path; use file:///{rest} for the folder /{rest}")
    if not rest.strip("/") and scheme != "memory":
        raise ValueError(f"{url!r} names no folder; use a URL like {scheme}://bucket/prefix")
    try:
        fsspec.get_filesystem_class(scheme)
    except ValueError:
        raise ValueError(f"{url!r}: unknown scheme {scheme}; use s3://, gs:// or file://") from None
    except ImportError as error:
        remedy = install_command(EXTRAS[scheme]) if scheme in EXTRAS else one_line(error)
        raise ValueError(f"{url!r} needs a package that can't be imported ({one_line(error)}): {remedy}") from error
    return scheme


def _identities(manifest: Manifest, read_file: Callable[[str], bytes], where: str) -> dict[str, object]:
    """Return the identity of each file: its size and checksum, for a chunk also the name of its array."""
    files = {name: entry for name, entry in manifest.files.items() if entry.crc32 is not None}
    return {**files, **chunks_of(manifest.files, read_file, where)}


def _retry(call: Callable[[], Any], waits: Sequence[float]) -> Any:
    """Call a function, again after each wait while the error is transient."""
    try:
        return call()
    except TRANSIENT:
        if not waits:
            raise
        time.sleep(waits[0])
    return _retry(call, waits[1:])


def _is_name(name: str) -> bool:
    """Return True if a name is that of a checkpoint."""
    return re.fullmatch(r"step_\d+", name, re.ASCII) is not None


def _checked(name: str) -> str:
    """Return a valid checkpoint name; raise a ValueError for others, so that no unrelated folder is removed."""
    if not _is_name(name):
        raise ValueError(f"{name!r} isn't a checkpoint's name; use step_<number>")
    return name


def remote_store(config: Config, run_dir: Path) -> RemoteStore | None:
    """Return the remote store of a run, None without `checkpoint.mirror`.

    Raises:
        ConfigError: the URL is invalid.
    """
    if config.checkpoint.mirror is None:
        return None
    try:
        return RemoteStore(f"{config.checkpoint.mirror.rstrip('/')}/{run_dir.name}")
    except ValueError as error:
        raise ConfigError([f"checkpoint.mirror={config.checkpoint.mirror}: {error}"]) from error
