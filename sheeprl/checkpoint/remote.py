"""Checkpoints kept at a URL as well: in a bucket (`s3://`, `gs://`), on a share (`file://`), or in memory, for tests.

A checkpoint is `<url>/step_<n>/…`, and its manifest is written last and removed first: what has none is no checkpoint.
While one is being written or removed, an empty file `.step_<n>.unfinished` lies beside it. So the remains of what was
interrupted can be told from folders that somebody else keeps there, and are cleared by the next upload.

Keys and endpoints come from where the packages of the file systems look for them: the environment and their own files.
"""

from __future__ import annotations

import asyncio
import os
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
from fsspec.implementations.local import LocalFileSystem

from sheeprl.checkpoint.manifest import (
    MANIFEST,
    DamagedCheckpointError,
    FileEntry,
    Manifest,
    chunks_of,
    parse,
    read,
    sync_folder,
    verify,
    write_atomically,
)
from sheeprl.config.schema import Config
from sheeprl.utils.errors import ConfigError, one_line

Item = TypeVar("Item")
Result = TypeVar("Result")
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}  # of this package, by the scheme that needs it
RETRYING = ("s3", "s3a", "gs", "gcs")  # their packages try again by themselves
TRANSIENT = (ConnectionError, TimeoutError, asyncio.TimeoutError)  # the last is another one before Python 3.11
WAITS = (0.5, 1.0, 2.0)  # seconds before another try
FILES_AT_ONCE = 8  # enough to hide a bucket's latency; each takes some tens of megabytes


class MirrorError(OSError):
    """What was asked of a mirror couldn't be done."""

    def __str__(self) -> str:
        return str(self.args[0])


class Mirror:
    """Checkpoints at a URL; one process at a time may write there.

    Args:
        url: a folder at any file system that fsspec knows, such as `s3://bucket/prefix`.

    Raises:
        ValueError: the URL is none, or a package is missing for it.
        MirrorError: the package can't be used, as when it looks for keys and finds none.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.scheme = check_url(url)
        # Listings are never taken from a cache: what another process did has to be seen.
        options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
        with self._explained("can't be opened"):
            self.fs, root = url_to_fs(url, **options)
        self.root = root.rstrip("/")
        self.local = isinstance(self.fs, LocalFileSystem)

    def check(self) -> None:
        """Write a small file and remove it again, so that a mistake is known before there is anything to lose.

        Raises:
            MirrorError: nothing can be kept there.
        """
        path = f"{self.root}/.writable"
        with self._explained("can't be written to"):
            self._pipe(path, b"yes")
            if self._cat(path) != b"yes":
                raise MirrorError(f"{self.url}: what is written there doesn't come back")
            self._call(self.fs.rm_file, path)

    def names(self) -> list[str]:
        """The whole checkpoints, oldest first.

        Raises:
            MirrorError: they can't be listed.
        """
        with self._explained("can't be listed"):
            names = [name for name in self._listing("directory") if _is_name(name)]
            whole = self._each(self._is_whole, names)
        return sorted((name for name, is_whole in zip(names, whole, strict=True) if is_whole), key=_step)

    def upload(self, folder: Path) -> None:
        """Keep a checkpoint under its name. One of that name that is there already is replaced, if it isn't the same.

        What the newest checkpoint there has in the same place, of the same size and checksum, isn't sent again but
        copied on the other side. Nothing may change in the folder meanwhile.

        Raises:
            FileNotFoundError: the folder is no whole checkpoint.
            DamagedCheckpointError: its manifest is damaged.
            MirrorError: it can't be uploaded. It doesn't count as being there then; others aren't touched.
        """
        name = _checked(folder.name)
        manifest = read(folder)
        raw = (folder / MANIFEST).read_bytes()
        with self._explained(f"{name} can't be uploaded"):
            if self._is_whole(name) and self._cat(self._path(name, MANIFEST)) == raw:
                return
            self._clear_remains()
            if self._is_whole(name):
                self._remove(name)
            shared = self._shared(folder, manifest)
            with self._unfinished(name):
                self._each(lambda file: self._send(folder, name, file, shared), manifest.files)
                self._check_sizes(name, manifest)
                self._publish(name, raw)

    def download(self, name: str, into: Path) -> Path:
        """Bring a checkpoint here, in the place of one of its name, once it is known to be as it was written.

        Args:
            name: as in `names`.
            into: the folder to put it in.

        Returns:
            Its folder.

        Raises:
            DamagedCheckpointError: a file of it isn't as it was written.
            MirrorError: it isn't there, or can't be downloaded.
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
                _put_in_place(partial, final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return final

    def remove(self, name: str) -> None:
        """Remove a checkpoint, or what is left of one; from the first moment on it is none.

        Raises:
            MirrorError: not all of it can be removed.
        """
        with self._explained(f"{_checked(name)} can't be removed"):
            self._remove(name)

    def read_text(self, name: str, file: str) -> str:
        """A small file of a checkpoint.

        Args:
            name: as in `names`.
            file: relative to the checkpoint.

        Raises:
            DamagedCheckpointError: it isn't as it was written.
            MirrorError: it isn't there, or can't be read.
        """
        path = f"{self.url}/{_checked(name)}/{file}"
        with self._explained(f"{file} of {name} can't be read"):
            _, manifest = self._read_manifest(name)
            if file not in manifest.files:
                raise MirrorError(f"{path}: the checkpoint has no such file")
            data = self._cat(self._path(name, file))
        if FileEntry(len(data), zlib.crc32(data)) != manifest.files[file]:
            raise DamagedCheckpointError(path, "is damaged: its size or checksum differs")
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise MirrorError(f"{path}: is no text") from error

    # --- what the above consists of ---

    def _read_manifest(self, name: str) -> tuple[bytes, Manifest]:
        try:
            raw = self._cat(self._path(name, MANIFEST))
        except FileNotFoundError:
            raise MirrorError(f"{self.url}/{name}: there is no whole checkpoint of that name") from None
        return raw, parse(raw, f"{self.url}/{name}/{MANIFEST}")

    def _shared(self, folder: Path, manifest: Manifest) -> dict[str, str]:
        """Where on the other side the files of a checkpoint are already, of those that are."""
        found = self.names()
        if not found:
            return {}
        newest = found[-1]
        try:
            _, before = self._read_manifest(newest)
            theirs = _identities(before, lambda file: self._cat(self._path(newest, file)), f"{self.url}/{newest}")
        except (DamagedCheckpointError, FileNotFoundError):
            return {}  # whatever it holds, sending everything is right as well
        ours = _identities(manifest, lambda file: (folder / file).read_bytes(), str(folder))
        return {file: self._path(newest, file) for file, identity in ours.items() if theirs.get(file) == identity}

    def _send(self, folder: Path, name: str, file: str, shared: dict[str, str]) -> None:
        target = self._path(name, file)
        self._make_parent(target)
        if file not in shared or not self._copied(shared[file], target):
            self._call(self.fs.put_file, str(folder / file), target)
        if self.local:
            _sync(Path(target))

    def _copied(self, source: str, target: str) -> bool:
        """Have the other side copy a file, if it can."""
        try:
            self._call(self.fs.cp_file, source, target)
        except (NotImplementedError, FileNotFoundError):
            return False
        return True

    def _fetch(self, name: str, file: str, target: Path) -> None:
        try:
            self._call(self.fs.get_file, self._path(name, file), str(target))
        except FileNotFoundError as error:
            raise DamagedCheckpointError(f"{self.url}/{name}/{file}", "is missing") from error

    def _verify(self, name: str, folder: Path) -> None:
        """Verify what was downloaded; an error names the file on the other side, this one is soon gone."""
        try:
            verify(folder)
        except DamagedCheckpointError as error:
            file = Path(error.file).relative_to(folder).as_posix()
            raise DamagedCheckpointError(f"{self.url}/{name}/{file}", error.problem) from error

    def _check_sizes(self, name: str, manifest: Manifest) -> None:
        """Whether what arrived is as long as what was sent."""
        folder = self._path(name)
        listed = self._call(self.fs.find, folder, detail=True)
        sizes = {path[len(folder) + 1 :]: info["size"] for path, info in listed.items()}
        for file, entry in manifest.files.items():
            if sizes.get(file) != entry.bytes:
                raise MirrorError(
                    f"{self.url}/{name}/{file}: {sizes.get(file, 0)} bytes arrived, its manifest says {entry.bytes}"
                )

    def _publish(self, name: str, raw: bytes) -> None:
        """Write a manifest, all at once. A bucket does so by itself, a folder doesn't."""
        path = self._path(name, MANIFEST)
        if not self.local:
            return self._pipe(path, raw)
        for folder in (each for each in Path(path).parent.rglob("*") if each.is_dir()):
            sync_folder(folder)
        write_atomically(Path(path), raw)
        sync_folder(Path(self.root))

    @contextmanager
    def _unfinished(self, name: str) -> Iterator[None]:
        """Leave a mark beside a checkpoint until what is done to it is done."""
        mark = f"{self.root}/.{name}.unfinished"
        self._make_parent(mark)
        self._pipe(mark, b"")
        yield
        self._call(self.fs.rm_file, mark)

    def _clear_remains(self) -> None:
        """Remove what an interrupted upload or removal left."""
        marks = (re.fullmatch(r"\.(step_\d+)\.unfinished", name) for name in self._listing("file"))
        for name in [mark[1] for mark in marks if mark]:
            if self._is_whole(name):
                self._call(self.fs.rm_file, f"{self.root}/.{name}.unfinished")
            else:
                self._remove(name)

    def _remove(self, name: str) -> None:
        with self._unfinished(name):
            with suppress(FileNotFoundError):
                self._call(self.fs.rm_file, self._path(name, MANIFEST))
            with suppress(FileNotFoundError):
                self._call(self.fs.rm, self._path(name), recursive=True)

    def _listing(self, kind: str) -> list[str]:
        try:
            entries = self._call(self.fs.ls, self.root, detail=True)
        except FileNotFoundError:  # nothing was written there yet
            return []
        return [entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == kind]

    def _is_whole(self, name: str) -> bool:
        # Not fs.exists, which takes every error for an absence: then a run might begin anew.
        try:
            return bool(self._call(self.fs.info, self._path(name, MANIFEST))["type"] == "file")
        except FileNotFoundError:
            return False

    # --- the file system ---

    def _path(self, *parts: str) -> str:
        return "/".join((self.root, *parts))

    def _make_parent(self, path: str) -> None:
        """Make a file's folder where there are such things."""
        if self.local:
            Path(path).parent.mkdir(parents=True, exist_ok=True)

    def _pipe(self, path: str, data: bytes) -> None:
        self._make_parent(path)
        self._call(self.fs.pipe_file, path, data)

    def _cat(self, path: str) -> bytes:
        return bytes(self._call(self.fs.cat_file, path))

    def _each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Do the same to many, at once where that helps; after an error nothing of it goes on."""
        if not self.fs.async_impl:
            return [function(item) for item in items]
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            return list(pool.map(function, items))

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the file system, again if it failed for a moment; everything that is asked of it can be done twice."""
        return _persistently(partial(function, *args, **kwargs), () if self.scheme in RETRYING else WAITS)

    @contextmanager
    def _explained(self, problem: str) -> Iterator[None]:
        """Make one kind of error of the many that file systems have."""
        try:
            yield
        except (MirrorError, DamagedCheckpointError):
            raise
        except Exception as error:
            # An endpoint's address may hold a password, or a signature.
            told = re.sub(r"//[^/\s@]*@|\?\S*", "…", one_line(error))
            raise MirrorError(f"{self.url}: {problem}: {type(error).__name__}: {told}") from error


def check_url(url: str) -> str:
    """Whether checkpoints could be kept at a URL, as far as that can be told without going there.

    Returns:
        Its scheme.

    Raises:
        ValueError: it is no URL of a folder, or a package is missing for it. What may be secret in it isn't told.
    """
    scheme, separator, rest = url.partition("://")
    plain = separator and "::" not in url
    if "@" in (rest.partition("/")[0] if plain else url) or re.search(r"[?#*\[\]]", url):
        raise ValueError(
            "the URL of a mirror has no user, password, query or wildcard (keys are taken from the environment); "
            "use one like s3://bucket/prefix"
        )
    if not plain:
        raise ValueError(f"{url!r} is not the URL of a folder; use one like s3://bucket/prefix or file:///mnt/share")
    if scheme in ("file", "local") and not rest.startswith("/"):
        raise ValueError(f"{url!r} is a relative path; use file:///{rest} if the folder is /{rest}")
    if not rest.strip("/") and scheme != "memory":
        raise ValueError(f"{url!r} names no folder; use one like {scheme}://bucket/prefix")
    try:
        fsspec.get_filesystem_class(scheme)
    except ValueError:
        raise ValueError(f"{url!r}: no file system is called {scheme}; use s3://, gs:// or file://") from None
    except ImportError as error:
        needed = f'pip install "sheeprl[{EXTRAS[scheme]}]"' if scheme in EXTRAS else one_line(error)
        raise ValueError(f"{url!r} needs a package that can't be imported ({one_line(error)}): {needed}") from error
    return scheme


def _identities(manifest: Manifest, read_file: Callable[[str], bytes], where: str) -> dict[str, object]:
    """What makes a file the same as another checkpoint's in its place: its size and checksum, and the array's name."""
    files = {name: entry for name, entry in manifest.files.items() if entry.crc32 is not None}
    return {**files, **chunks_of(manifest.files, read_file, where)}


def _persistently(call: Callable[[], Any], waits: Sequence[float]) -> Any:
    try:
        return call()
    except TRANSIENT:
        if not waits:
            raise
        time.sleep(waits[0])
    return _persistently(call, waits[1:])


def _put_in_place(partial: Path, final: Path) -> None:
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    partial.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    """Have a file on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _is_name(name: str) -> bool:
    return re.fullmatch(r"step_\d+", name, re.ASCII) is not None


def _checked(name: str) -> str:
    """A checkpoint's name; with any other one, what isn't a checkpoint could be removed."""
    if not _is_name(name):
        raise ValueError(f"{name!r} is no checkpoint's name; those are step_<number>")
    return name


def _step(name: str) -> int:
    return int(name.removeprefix("step_"))


def mirror_of(config: Config, run_dir: Path) -> Mirror | None:
    """Where the run's checkpoints are kept besides.

    Raises:
        ConfigError: the address can't be used.
    """
    if config.checkpoint.mirror is None:
        return None
    pass

    try:
        return Mirror(f"{config.checkpoint.mirror.rstrip('/')}/{run_dir.name}")
    except ValueError as error:
        raise ConfigError([f"checkpoint.mirror={config.checkpoint.mirror}: {error}"]) from error
